//! Which core runs which worker.

use crate::configuration::{Queues, Workers};

/// Why workers cannot be placed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// A core that is not there, or not ours.
    #[error(
        "core {core} in `workers.cores` is not there, or not for this process; it may use {usable:?}"
    )]
    Core {
        /// The core.
        core: usize,
        /// Those that it may use.
        usable: Vec<usize>,
    },
    /// An index beyond the cores that we were given.
    #[error(
        "`workers.cores` names core {index} of those that this process was given, and these are \
         {usable:?}: with `workers.relative` it is 0 to {}", usable.len().saturating_sub(1)
    )]
    Relative {
        /// The index.
        index: usize,
        /// Those that it may use.
        usable: Vec<usize>,
    },
    /// More cores than there are queues to poll.
    #[error(
        "{cores} cores in `workers.cores` and {queues} queues of each port: a core would have \
         nothing to do; raise `workers.queues` to {cores}, which takes a restart"
    )]
    TooFewQueues {
        /// Cores that are named.
        cores: usize,
        /// Queues of each port.
        queues: usize,
    },
    /// Not one core for each queue.
    #[error("`workers.placement` places {placed} queues, and each port has {queues}")]
    Placed {
        /// Queues that are placed.
        placed: usize,
        /// Queues of each port.
        queues: usize,
    },
    /// A queue on a core that is not named.
    #[error(
        "`workers.placement` places queue {queue} on core {core}, which is not in `workers.cores`"
    )]
    Elsewhere {
        /// The queue.
        queue: usize,
        /// The core, as it was written.
        core: usize,
    },
    /// A core without a queue.
    #[error("`workers.placement` places no queue on core {core} of `workers.cores`")]
    Idle {
        /// The core, as it was written.
        core: usize,
    },
}

/// Which core runs which worker. A worker has one queue of each port, so this says, too, who polls
/// what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// `None` leaves it to the scheduler.
    cores: Vec<Option<usize>>,
    /// Of each worker, its place in `cores`.
    places: Vec<usize>,
}

impl Placement {
    /// A worker on each core.
    pub fn one_each(cores: impl IntoIterator<Item = Option<usize>>) -> Placement {
        let cores: Vec<Option<usize>> = cores.into_iter().collect();
        Placement { places: (0..cores.len()).collect(), cores }
    }

    /// So many workers, dealt out to the cores in turn. There is at least one core.
    pub fn in_turn(cores: Vec<Option<usize>>, workers: usize) -> Placement {
        Placement { places: (0..workers).map(|worker| worker % cores.len()).collect(), cores }
    }

    /// As a configuration says, for so many queues of each port, by a process that may use these
    /// cores.
    pub fn of(
        workers: &Workers,
        queues: usize,
        usable: &[usize],
    ) -> Result<Placement, PlacementError> {
        let (named, places) = (&workers.cores, places(workers, queues)?);
        let core = |&named: &usize| match workers.relative {
            true => usable
                .get(named)
                .copied()
                .ok_or_else(|| PlacementError::Relative { index: named, usable: usable.to_vec() }),
            false if usable.contains(&named) => Ok(named),
            false => Err(PlacementError::Core { core: named, usable: usable.to_vec() }),
        };
        let cores = named.iter().map(|named| core(named).map(Some)).collect::<Result<_, _>>()?;
        Ok(Placement { cores, places })
    }

    /// The cores, each of which takes a thread.
    pub fn cores(&self) -> &[Option<usize>] {
        &self.cores
    }

    /// Of each worker, its place among the cores.
    pub fn places(&self) -> &[usize] {
        &self.places
    }
}

/// Of each queue, the place of its core among those that are named.
pub(crate) fn places(workers: &Workers, queues: usize) -> Result<Vec<usize>, PlacementError> {
    let named = &workers.cores;
    if named.len() > queues {
        return Err(PlacementError::TooFewQueues { cores: named.len(), queues });
    }
    let Queues::Placed(placed) = &workers.placement else {
        return Ok((0..queues).map(|queue| queue % named.len()).collect());
    };
    if placed.len() != queues {
        return Err(PlacementError::Placed { placed: placed.len(), queues });
    }
    if let Some(&core) = named.iter().find(|core| !placed.contains(core)) {
        return Err(PlacementError::Idle { core });
    }
    let place = |(queue, &core): (usize, &usize)| {
        let at = named.iter().position(|&named| named == core);
        at.ok_or(PlacementError::Elsewhere { queue, core })
    };
    placed.iter().enumerate().map(place).collect()
}

/// The cores that this process may use, as the kernel says now: on a node whose kubelet has the
/// static CPU manager, those that a container with whole CPUs was given.
pub fn usable_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(cores: &[usize]) -> Workers {
        Workers { cores: cores.to_vec(), ..Workers::default() }
    }

    fn placed(cores: &[usize], placement: &[usize]) -> Workers {
        Workers { placement: Queues::Placed(placement.to_vec()), ..workers(cores) }
    }

    fn on(workers: &Workers, queues: usize) -> Result<Vec<usize>, PlacementError> {
        let placement = Placement::of(workers, queues, &[2, 3, 6])?;
        let core = |&place: &usize| placement.cores()[place];
        Ok(placement.places().iter().filter_map(core).collect())
    }

    #[test]
    fn queues_are_dealt_out_to_the_cores_in_turn_or_as_they_are_placed() {
        assert_eq!(on(&workers(&[2, 6]), 2), Ok(vec![2, 6]));
        assert_eq!(on(&workers(&[6]), 3), Ok(vec![6, 6, 6]));
        assert_eq!(on(&workers(&[6, 2]), 5), Ok(vec![6, 2, 6, 2, 6]));
        assert_eq!(on(&placed(&[2, 6], &[2, 2, 6]), 3), Ok(vec![2, 2, 6]));
    }

    #[test]
    fn relative_cores_are_indexes_into_those_that_the_process_was_given() {
        let relative = |cores: &[usize]| Workers { relative: true, ..workers(cores) };
        assert_eq!(on(&relative(&[0, 2]), 2), Ok(vec![2, 6]));
        let placed = Workers { relative: true, ..placed(&[1, 2], &[2, 1]) };
        assert_eq!(on(&placed, 2), Ok(vec![6, 3]));
        let usable = vec![2, 3, 6];
        let beyond = PlacementError::Relative { index: 3, usable };
        assert!(
            beyond
                .to_string()
                .ends_with("these are [2, 3, 6]: with `workers.relative` it is 0 to 2")
        );
        assert_eq!(on(&relative(&[3]), 1), Err(beyond));
    }

    #[test]
    fn what_cannot_be_placed_is_refused_by_name() {
        let usable = vec![2, 3, 6];
        assert_eq!(on(&workers(&[4]), 1), Err(PlacementError::Core { core: 4, usable }));
        let few = PlacementError::TooFewQueues { cores: 3, queues: 2 };
        assert!(few.to_string().contains("raise `workers.queues` to 3, which takes a restart"));
        assert_eq!(on(&workers(&[2, 3, 6]), 2), Err(few));
        for (placement, refused) in [
            (vec![2], PlacementError::Placed { placed: 1, queues: 2 }),
            (vec![2, 2], PlacementError::Idle { core: 3 }),
        ] {
            assert_eq!(on(&placed(&[2, 3], &placement), 2), Err(refused));
        }
        let elsewhere = PlacementError::Elsewhere { queue: 2, core: 6 };
        assert_eq!(on(&placed(&[2, 3], &[3, 2, 6]), 3), Err(elsewhere));
    }
}

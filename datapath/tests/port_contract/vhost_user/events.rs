//! Kicks and calls: no more than are wanted, and none too few.

use super::*;

#[test]
fn a_batch_calls_the_guest_once_and_only_if_it_wants() {
    for (packed, event_index) in [(false, false), (false, true), (true, true)] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        let shape = Shape { packed, event_index, ..SPLIT };
        let mut guest = Guest::new(shape, connect(&place.socket()));
        // It was called once when the ring started.
        assert_eq!(guest.rings[0].call.read().unwrap(), 1);
        for wanted in [true, false, true] {
            guest.rings[0].driver.want_calls(&guest.memory, wanted);
            let mut batch = batch(&mut frames, &numbered(0..20));
            port.queues[0].transmit(&mut frames, &mut batch);
            port.queues[0].flush(&mut frames);
            port.queues[0].flush(&mut frames);
            assert_eq!(guest.rings[0].call.read().is_ok_and(|count| count == 1), wanted);
            assert_eq!(std::iter::from_fn(|| guest.collect()).count(), 20);
        }
        close(&place, port, frames);
    }
}

#[test]
fn a_port_of_polling_workers_asks_for_no_kicks() {
    for shape in [SPLIT, Shape { packed: true, ..SPLIT }] {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, true);
        let mut frames = FrameCache::new(place.region);
        let mut guest = Guest::new(shape, connect(&place.socket()));
        guest.rings[1].driver.want_calls(&guest.memory, false);
        let mut batch = Batch::new();
        (0..100).for_each(|_| port.queues[0].receive(&mut frames, &mut batch));
        assert!(guest.send(&Sample::numbered(7, 100)));
        assert!(guest.rings[1].kick.read().is_err(), "no kick was asked for");
        assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 1), [7]);
        assert_eq!(port.queues[0].stats().system_calls, 0);
        close(&place, port, frames);
    }
}

#[test]
fn kicks_are_asked_for_by_the_first_look_that_finds_nothing() {
    let shapes = [SPLIT, Shape { event_index: true, ..SPLIT }, Shape { packed: true, ..SPLIT }];
    for shape in shapes {
        let place = Place::new();
        let mut port = place.open(Mode::Server, 1, false);
        let mut frames = FrameCache::new(place.region);
        let mut guest = Guest::new(shape, connect(&place.socket()));
        let wake = port.queues[0].wake_source().unwrap();
        for number in 0..3 {
            let mut batch = Batch::new();
            port.queues[0].receive(&mut frames, &mut batch);
            assert!(batch.is_empty() && !readable(wake, Duration::ZERO));
            assert!(guest.send(&Sample::numbered(number, 100)));
            assert!(readable(wake, PATIENCE), "a worker that rests now would miss it");
            assert_eq!(receive(port.queues[0].as_mut(), &mut frames, 1), [number]);
        }
        close(&place, port, frames);
    }
}

#[test]
fn kicks_for_nothing_do_not_keep_a_worker_awake() {
    let place = Place::new();
    let mut port = place.open(Mode::Server, 1, false);
    let mut frames = FrameCache::new(place.region);
    let guest = Guest::new(SPLIT, connect(&place.socket()));
    let mut batch = Batch::new();
    (0..3).for_each(|_| port.queues[0].receive(&mut frames, &mut batch));
    guest.rings[1].kick.write(5).unwrap();
    let wake = port.queues[0].wake_source().unwrap();
    assert!(readable(wake, PATIENCE));
    (0..40).for_each(|_| port.queues[0].receive(&mut frames, &mut batch));
    assert!(batch.is_empty() && !readable(wake, Duration::ZERO));
    close(&place, port, frames);
}

//! What a guest can do wrong, each with its name. Any of it takes the port down, and nobody else.

/// How a guest, or who speaks for it, broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// The available index moved by more than there are descriptors, or backwards.
    #[error("the available index jumped from {from} to {to} in a ring of {size}")]
    IndexJump {
        /// Up to where it was served.
        from: u16,
        /// What it says now.
        to: u16,
        /// Descriptors of the ring.
        size: u16,
    },
    /// A descriptor that is not in its table.
    #[error("descriptor {index} is not in a table of {size}")]
    DescriptorIndex {
        /// Its index.
        index: u16,
        /// Descriptors of the table.
        size: u16,
    },
    /// Memory that the guest has not shared.
    #[error("{bytes} bytes at {address:#x} are not within one of the guest's memory regions")]
    OutsideMemory {
        /// Guest-physical address.
        address: u64,
        /// Length.
        bytes: u64,
    },
    /// A loop, or more descriptors for a packet than any driver needs.
    #[error("a chain of more than {max} descriptors, or a loop of them")]
    ChainTooLong {
        /// The most that is followed.
        max: usize,
    },
    /// A buffer to be read is for writing, or the other way round.
    #[error("a descriptor of the wrong direction")]
    Direction,
    /// An indirect table within another, beside other descriptors, empty or cut.
    #[error("an indirect table of {bytes} bytes where none can be")]
    Indirect {
        /// Its length.
        bytes: u32,
    },
    /// The file behind the memory was cut short, got a hole, or no page was left for it.
    #[error("the file behind the guest's memory was cut short, or no page was left for it")]
    MemoryGone,
    /// The file is not of a kind that can be shared.
    #[error("guest memory must be a memfd or a file of hugetlbfs; this is neither")]
    MemoryKind,
    /// The file is shorter than the region.
    #[error("a memory region ends at {end} in a file of {bytes} bytes")]
    MemoryShort {
        /// Where it ends in the file.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// Regions that overlap, or more than there may be.
    #[error("a memory region at {address:#x} overlaps another, or is one too many")]
    MemoryLayout {
        /// Its guest-physical address.
        address: u64,
    },
    /// More of it than there is room for in this process, where others have theirs.
    #[error("{bytes} bytes of guest memory; at most {max} are mapped")]
    MemoryTooLarge {
        /// Of all regions.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// The kernel does not map it.
    #[error("the kernel does not map the guest's memory: errno {errno}")]
    MemoryMap {
        /// What the kernel said.
        errno: i32,
    },
    /// The ring itself lies outside of the memory, or is not aligned.
    #[error("a ring at {address:#x} is not aligned, or not within one memory region")]
    RingPlace {
        /// Its address in the front end.
        address: u64,
    },
    /// A descriptor for kicks or calls that is none.
    #[error("a kick or call descriptor that is no eventfd")]
    NotEventFd,
}

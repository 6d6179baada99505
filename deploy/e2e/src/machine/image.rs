//! What a virtual machine boots: Debian's kernel, and an initramfs with busybox, the driver of its
//! network device and our program.
//!
//! Debian's packages are downloaded and unpacked beside the binaries, and installed nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use crate::failure::{Failure, Outcome, expect};
use crate::namespace::output;
use crate::node::binary;

/// The package that depends on the newest kernel for virtual machines.
const NEWEST_KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
const PROGRAM: &str = "seine-guest";

/// The driver of the network device and what it needs, in the order of need.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod \"/modules/$module\"; done < /modules/order
/bin/busybox ip link set lo up
exec /bin/seine-guest
";

/// What a virtual machine boots.
#[derive(Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first and only file system.
    pub initramfs: PathBuf,
}

impl Image {
    /// Makes an image in `folder`, from packages that are fetched once.
    pub fn make(folder: &Path) -> Outcome<Image> {
        let program = binary(PROGRAM)?;
        let cache = program.with_file_name("guest");
        fs::create_dir_all(&cache).map_err(Failure::io("create", &cache))?;
        let busybox = unpacked(&cache, BUSYBOX)?;
        let package = match cached(&cache, "linux-image-")? {
            Some(package) => package,
            None => newest_kernel()?,
        };
        let kernel = unpacked(&cache, &package)?;
        let version = package.trim_start_matches("linux-image-");

        let mut archive = Archive::default();
        for folder in ["bin", "dev", "lib", "lib64", "modules", "proc", "sys"] {
            archive.folder(folder);
        }
        archive.file("init", INIT.as_bytes());
        let paths = ["bin/busybox", "usr/bin/busybox"].map(|path| busybox.join(path));
        let found = paths.iter().find(|path| path.is_file()).unwrap_or(&paths[0]);
        archive.file("bin/busybox", &read(found)?);
        archive.file("bin/seine-guest", &read(&program)?);
        for library in libraries(&program)? {
            // Where the loader looks: its own place, and one folder for all others.
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            let place = if name.starts_with("ld-linux") { "lib64" } else { "lib" };
            archive.file(&format!("{place}/{name}"), &read(&library)?);
        }
        let mut order = String::new();
        for (number, module) in MODULES.iter().enumerate() {
            let paths = ["lib", "usr/lib"]
                .map(|it| kernel.join(format!("{it}/modules/{version}/kernel/{module}.ko")));
            // One that is built in is no file.
            if let Some(path) = paths.iter().find(|path| path.is_file()) {
                archive.file(&format!("modules/{number}.ko"), &read(path)?);
                order.push_str(&format!("{number}.ko\n"));
            }
        }
        expect(!order.is_empty(), || format!("`{package}` has no module that can be loaded"))?;
        archive.file("modules/order", order.as_bytes());
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, archive.finish()).map_err(Failure::io("write", &initramfs))?;
        Ok(Image { kernel: kernel.join(format!("boot/vmlinuz-{version}")), initramfs })
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(Failure::io("read", path))
}

/// What `ldd` says that a program is loaded with.
fn libraries(program: &Path) -> Outcome<Vec<PathBuf>> {
    let told = output(Command::new("ldd").arg(program))?;
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(told.lines().filter_map(path).collect())
}

/// The package of a name that begins so and was unpacked before.
fn cached(cache: &Path, prefix: &str) -> Outcome<Option<String>> {
    let entries = fs::read_dir(cache).map_err(Failure::io("read", cache))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(prefix) && !name.ends_with(".part")).max())
}

fn newest_kernel() -> Outcome<String> {
    let told = with_lists(|| output(Command::new("apt-cache").args(["depends", NEWEST_KERNEL])))?;
    let mut names = told.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.find(|name| name.starts_with("linux-image-"));
    name.map(str::to_owned)
        .ok_or_else(|| Failure::Unmet(format!("`{NEWEST_KERNEL}` depends on no kernel: {told}")))
}

/// A package, unpacked into a folder of its name.
fn unpacked(cache: &Path, package: &str) -> Outcome<PathBuf> {
    let folder = cache.join(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    // It gets its name when it is whole.
    let part = cache.join(format!("{package}.part"));
    if part.exists() {
        fs::remove_dir_all(&part).map_err(Failure::io("remove", &part))?;
    }
    fs::create_dir_all(&part).map_err(Failure::io("create", &part))?;
    with_lists(|| {
        let mut command = Command::new("apt-get");
        output(
            command
                .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
                .current_dir(&part),
        )
    })?;
    let entries = fs::read_dir(&part).map_err(Failure::io("read", &part))?;
    for archive in entries.flatten().map(|entry| entry.path()) {
        output(Command::new("dpkg").arg("-x").arg(&archive).arg(&part))?;
        fs::remove_file(&archive).map_err(Failure::io("remove", &archive))?;
    }
    fs::rename(&part, &folder).map_err(Failure::io("rename", &part))?;
    Ok(folder)
}

/// Asks apt; when it does not know, asks again with fresh lists.
fn with_lists(ask: impl Fn() -> Outcome<String>) -> Outcome<String> {
    if let Ok(told) = ask()
        && !told.trim().is_empty()
    {
        return Ok(told);
    }
    output(Command::new("apt-get").args(["-q", "update"]))?;
    ask()
}

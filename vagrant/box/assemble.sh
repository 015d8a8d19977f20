#!/bin/bash
# Makes a box for Vagrant's libvirt provider of a Debian root: assemble.sh ROOT OUTPUT PUBLIC_KEY SHARE. In a mount and pid namespace
# of its own. What a machine would be given, SHARE, is there already, and its packages are installed.
#
# The root stays as it is: what the box has more lies over it. The file system is written by mkfs, GRUB's two parts to where
# a BIOS and the first part look for them, so no loop device is needed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [[ ! ${BOX_INSIDE:-} ]]; then
  BOX_INSIDE=1 exec unshare --mount --pid --fork --kill-child bash "$0" "$@"
fi
root=$1 output=$2 key=$3 share=$4 size=${BOX_GIB:-8}
work=$(mktemp -d "$(dirname "$output")/box.XXXXXX")
trap 'umount -R "$work/merged" || true; rm -rf "$work"' EXIT
mkdir "$work"/{upper,work,merged,box}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$work/merged"
mount -t proc proc "$work/merged/proc"
cp "$here/inside.sh" "$work/merged/"
cp "$key" "$work/merged/vagrant.pub"
cp -a "$share" "$work/merged/srv/flanneld-py"
chroot "$work/merged" bash /inside.sh
rm "$work/merged/inside.sh"
umount "$work/merged/proc"

# One partition from the first MiB on; GRUB's beginning in the first sector, the rest of it right behind.
disk=$work/disk
truncate -s "${size}G" "$disk"
mkfs.ext4 -q -L root -E offset=1048576,assume_storage_prezeroed=1 -d "$work/merged" "$disk" "$((size * 1048576 - 1024))k"
echo 'label: dos
start=2048, type=83, bootable' | sfdisk -q "$disk"
dd if="$work/merged/usr/lib/grub/i386-pc/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/merged/boot/grub/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none

qemu-img convert -c -o compression_type=zstd -O qcow2 "$disk" "$work/box/box.img"
echo "{\"provider\": \"libvirt\", \"format\": \"qcow2\", \"virtual_size\": $size}" >"$work/box/metadata.json"
cat >"$work/box/Vagrantfile" <<'END'
Vagrant.configure("2") { |config| config.vm.synced_folder ".", "/vagrant", disabled: true }
END
tar -cf "$output.new" -C "$work/box" metadata.json Vagrantfile box.img
mv "$output.new" "$output"

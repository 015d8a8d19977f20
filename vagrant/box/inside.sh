#!/bin/bash
# In the box's file system, as root of a chroot: what makes Vagrant's guest of a Debian. Run by assemble.sh.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
rm -rf /opt/flanneld-py /wheels /etc/systemd/system/multi-user.target.wants/vm-command.service

# As vagrant/provision.sh does, which finds it done.
SYSTEMD_OFFLINE=1 dpkg --force-unsafe-io --install /srv/flanneld-py/*.deb
mkdir -p /var/lib/flanneld-py-vm
for deb in /srv/flanneld-py/*.deb; do touch --reference="$deb" "/var/lib/flanneld-py-vm/${deb##*/}"; done

useradd --create-home --shell /bin/bash vagrant
install -d -m 700 -o vagrant -g vagrant /home/vagrant/.ssh
chown -R vagrant: /srv/flanneld-py
install -m 600 -o vagrant -g vagrant /vagrant.pub /home/vagrant/.ssh/authorized_keys
rm /vagrant.pub
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant && chmod 440 /etc/sudoers.d/vagrant

# Each machine has keys and an identity of its own, made at its first boot; an RSA key would take an emulated machine seconds.
rm -f /etc/ssh/ssh_host_* && : >/etc/machine-id
cat >/etc/ssh/sshd_config.d/vagrant.conf <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
HostKey /etc/ssh/ssh_host_ecdsa_key
UseDNS no
PasswordAuthentication no
END
install -d /etc/systemd/system/ssh.service.d
cat >/etc/systemd/system/ssh.service.d/keys.conf <<'END'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'for kind in ed25519 ecdsa; do [ -s /etc/ssh/ssh_host_"$kind"_key ] || ssh-keygen -q -N "" -t $kind -f /etc/ssh/ssh_host_"$kind"_key; done'
ExecStartPre=/usr/sbin/sshd -t
END
systemctl enable ssh containerd

# eth0 is Vagrant's own; the others get their addresses from it. Routes that are not networkd's are none of its business.
cat >/etc/systemd/network/10-eth0.network <<'END'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
[DHCPv4]
ClientIdentifier=mac
END
install -d /etc/systemd/networkd.conf.d
printf '[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n' >/etc/systemd/networkd.conf.d/kubernetes.conf
systemctl enable systemd-networkd
systemctl disable systemd-networkd-wait-online
install -d /etc/systemd/system/network-online.target.wants
echo 'nameserver 192.168.121.1' >/etc/resolv.conf
printf '127.0.0.1 localhost\n127.0.1.1 vm\n' >/etc/hosts
echo 'LABEL=root / ext4 noatime 0 1' >/etc/fstab

# The kernel's AppArmor stays, containers are confined by it; profiles of programs that are never run take half a minute to load.
systemctl disable apparmor
systemctl mask sys-kernel-config.mount sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount \
  proc-sys-fs-binfmt_misc.automount systemd-binfmt systemd-pstore systemd-update-utmp systemd-update-utmp-runlevel \
  modprobe@{configfs,drm,dm_mod,efi_pstore,fuse,loop}.service getty@tty1 e2scrub_reap

# What GRUB does is built into it: it has no menu, and of the file system only reads kernel and ramdisk.
mkdir -p /boot/grub
cat >/boot/grub/built-in.cfg <<'END'
set root=(hd0,msdos1)
linux /vmlinuz root=LABEL=root rw net.ifnames=0 mitigations=off random.trust_cpu=on panic=5 console=ttyS0 quiet
initrd /initrd.img
boot
END
ls -l /vmlinuz /initrd.img
grub-mkimage -O i386-pc -o /boot/grub/core.img -p /boot/grub -c /boot/grub/built-in.cfg biosdisk part_msdos ext2 linux

#!/bin/busybox sh
# PID 1 of the nested host: loads KVM, mounts the two images, runs one command, stores what it left.
# /dev/ttyS0 is the console; the command's output goes to /dev/ttyS1, its result folder to /dev/vdc.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /base /project /rw /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin

# In this order: each one needs those before it.
for module in $(cat /modules/order); do insmod "/modules/$module" || echo "insmod $module failed"; done

mount -t erofs -o ro /dev/vda /base
mount -t erofs -o ro /dev/vdb /project
mount -t tmpfs -o size=75% tmpfs /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/project:/base,upperdir=/rw/upper,workdir=/rw/work overlay /root

cd /root
mkdir -p proc sys dev tmp run result
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm sys/fs/cgroup
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs tmp
ln -sf /proc/self/fd dev/fd
ip link set lo up
hostname nested

stty -F /dev/ttyS1 raw -echo
ulimit -Hn 20000
ulimit -Sn 20000
cp /command dev/shm/command
# Through a pipe: the command must not take the serial line for somebody's terminal.
(
  chroot /root /bin/busybox sh /dev/shm/command </dev/null 2>&1
  echo $? >result/exit-code
) | cat >/dev/ttyS1
tar -cf /dev/vdc -C result .
sync
poweroff -f

# Trains on a disk of its own: until it is full, then read-only. If asked to, with room again, and
# from the beginning on one that goes read-only during the run.
# Arguments: where to mount it, its size, where to leave what came of it, its size in the end or
# nothing, the command.
disk=$1 size=$2 out=$3 room=$4
shift 4
life() {
    name=$1
    shift
    "$@" >"$out/$name.out" 2>"$out/$name.err"
    echo $? >"$out/$name.status"
    cp -r "$disk" "$out/$name"
}
mount -t tmpfs -o "size=$size" none "$disk" || exit
life full "$@"
mount -o remount,ro "$disk"
life read-only "$@"
[ -z "$room" ] && exit
mount -o "remount,rw,size=$room" "$disk"
life room "$@"
umount "$disk"
mount -t tmpfs -o "size=$room" none "$disk"
{
    while [ ! -e "$disk/checkpoints/8" ] && [ ! -e "$out/gone.status" ]; do sleep 0.02; done
    mount --bind "$disk" "$disk" && mount -o remount,ro,bind "$disk"
} &
life gone "$@"
wait

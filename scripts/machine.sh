# shellcheck shell=bash
# machine.sh: a kernel in an emulated machine of its architecture.  Sourced, never run.

# machine ARCH IMAGE INITRD MEGABYTES [ARG...]: sets run to the command that boots IMAGE, on which the console is
# standard output, and which ends when the kernel restarts the machine. ARCH is as kbuild has it, or nothing for
# x86; ARG... are more for the emulator. The emulator alone, no KVM, so that it is the same everywhere.
machine() {
	local arch=$1 image=$2 initrd=$3 memory=$4 arguments="panic=-1"
	shift 4
	case $arch in
	'' | x86_64)
		# On a busy machine the guest may not get the ticks in time with which it tries its timer.
		run=(qemu-system-x86_64 -vga none)
		arguments+=" console=ttyS0 no_timer_check"
		;;
	arm64)
		run=(qemu-system-aarch64 -M virt -cpu cortex-a57)
		arguments+=" console=ttyAMA0"
		;;
	riscv)
		run=(qemu-system-riscv64 -M virt)
		arguments+=" console=ttyS0"
		;;
	loongarch)
		run=("$("$ROOT/scripts/fetch-qemu")" -M virt -cpu la464)
		arguments+=" console=ttyS0,115200"
		;;
	um)
		# shellcheck disable=SC2034 # for who sourced this
		run=("$image" "mem=${memory}M" "initrd=$initrd" "con0=fd:0,fd:1" console=tty0 panic=-1 -- off)
		return
		;;
	*) die "no machine of the architecture $arch is known" ;;
	esac
	run+=(-accel tcg -m "$memory" -nic none -nographic -no-reboot -kernel "$image" -initrd "$initrd" -append "$arguments" "$@")
}

# boot_image ARCH: what machine boots, in an object tree.
boot_image() {
	case $1 in
	'' | x86_64) echo arch/x86/boot/bzImage ;;
	arm64 | riscv) echo "arch/$1/boot/Image" ;;
	loongarch) echo arch/loongarch/boot/vmlinux.efi ;;
	um) echo linux ;;
	*) die "no image of the architecture $1 is known" ;;
	esac
}

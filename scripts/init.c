// SPDX-License-Identifier: GPL-2.0-only
/*
 * init.c: the only process of a kernel booted by scripts/boot.  Prints /proc/version between two
 * marker lines, says whether the kernel carries its own configuration, and restarts the machine,
 * which ends an emulator started with -no-reboot.
 *
 * Tiny kernels have no devtmpfs and the archive holds no device nodes (making one needs root on the
 * host), so that the kernel starts this without a console; it makes the node itself.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

static int console = -1;

static void put(const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(console, text, len);

		if (n <= 0)
			return;
		text += n;
		len -= n;
	}
}

static void say(const char *text)
{
	put(text, strlen(text));
}

static void open_console(void)
{
	mkdir("/dev", 0755);
	mknod("/dev/console", S_IFCHR | 0600, makedev(5, 1));
	console = open("/dev/console", O_RDWR);
}

static void print_version(void)
{
	char text[1024];
	ssize_t n;
	int fd = open("/proc/version", O_RDONLY);

	say("kthinlto-boot: begin\n");
	while (fd >= 0 && (n = read(fd, text, sizeof(text))) > 0)
		put(text, n);
	say("kthinlto-boot: end\n");
}

int main(void)
{
	open_console();
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	print_version();
	if (access("/proc/config.gz", R_OK) == 0)
		say("kthinlto-boot: /proc/config.gz is there\n");
	tcdrain(console);
	reboot(RB_AUTOBOOT);
	return 1; /* the kernel panics, and with panic=-1 restarts as well */
}

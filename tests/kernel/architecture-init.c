// SPDX-License-Identifier: GPL-2.0-only
/*
 * architecture-init.c: the only process of a kernel of another architecture, booted by boot-modules.
 * Prints /proc/version, loads the modules that /modules lists, in its order, and unloads them again, in a
 * kernel that can.
 * Each line of its own begins with "modules: ".  It is compiled with the kernel's own nolibc, so that no
 * libc of that architecture is needed.
 */
#include "nolibc.h"

#include <linux/reboot.h>

#include "module-name.h"

#define MOST 100

static char modules[MOST][256];
static int count;
static int failures;

static void failed(const char *what, const char *name)
{
	failures++;
	printf("modules: FAILED to %s %s: error %d\n", what, name, errno);
}

static void load(char *path)
{
	int fd = strlen(path) < sizeof(modules[0]) ? open(path, O_RDONLY) : -1;

	if (fd < 0 || syscall(__NR_finit_module, fd, "", 0)) {
		/* There is no such device: not the module's fault. */
		if (errno == ENODEV)
			printf("modules: not here: %s\n", path);
		else
			failed("load", path);
	} else {
		memcpy(modules[count++], path, strlen(path) + 1);
	}
	close(fd);
}

static void unload_all(void)
{
	int i;

	for (i = count - 1; i >= 0; i--) {
		char *name = name_of(modules[i]);

		if (!syscall(__NR_delete_module, name, O_NONBLOCK))
			continue;
		if (errno == ENOSYS) {
			printf("modules: none can be unloaded in this kernel\n");
			return;
		}
		failed("unload", name);
	}
}

/* lines FILE: each of its lines is given to TAKE. There is no fopen in the nolibc of 6.12. */
static void lines(const char *file, void (*take)(char *line))
{
	static char line[1024];
	size_t length = 0;
	int fd = open(file, O_RDONLY);

	if (fd < 0)
		failed("open", file);
	while (length < sizeof(line) && read(fd, line + length, 1) == 1) {
		if (line[length++] != '\n')
			continue;
		line[length - 1] = 0;
		length = 0;
		take(line);
	}
	if (length)
		failed("read a line of", file);
	close(fd);
}

static void show(char *line)
{
	printf("modules: on %s\n", line);
}

int main(int argc, char **argv)
{
	int fd;

	mkdir("/dev", 0755);
	mknod("/dev/console", S_IFCHR | 0600, makedev(5, 1));
	fd = open("/dev/console", O_RDWR);
	dup2(fd, 1);
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, "");
	lines("/proc/version", show);
	lines("/modules", load);
	printf("modules: %d loaded\n", count);
	unload_all();
	printf("modules: end, %d failures\n", failures);
	/* User-mode Linux begins anew instead of ending. */
	reboot(argc > 1 && !strcmp(argv[1], "off") ? (int)LINUX_REBOOT_CMD_POWER_OFF : (int)LINUX_REBOOT_CMD_RESTART);
	return 1;
}

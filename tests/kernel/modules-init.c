// SPDX-License-Identifier: GPL-2.0-only
/*
 * modules-init.c: the only process of a kernel booted by boot-modules.  Loads the modules that
 * /modules lists, in its order; makes files on the disks that /disks lists, reads them back after
 * another mount; unloads all modules again.  Each line that it prints begins with "modules: ".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "module-name.h"

#define MOST 1000
#define BLOCK 65536
#define BLOCKS 64

static char *modules[MOST];
static int count;
static int failures;

static void say(const char *format, ...)
{
	va_list list;

	printf("modules: ");
	va_start(list, format);
	vprintf(format, list);
	va_end(list);
	printf("\n");
	fflush(stdout);
}

static void failed(const char *what, const char *name)
{
	failures++;
	say("FAILED to %s %s: %s", what, name, strerror(errno));
}

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0)) {
		/* The processor has no such instructions, or there is no such device: not the module's fault. */
		if (errno == ENODEV)
			say("not here: %s", path);
		else
			failed("load", path);
	} else {
		modules[count++] = strdup(path);
	}
	close(fd);
}

/* Some modules hold others until work in the background has ended. */
static void unload_all(void)
{
	int i, turn, left = count;

	for (turn = 0; left && turn < 100; turn++) {
		for (left = 0, i = count - 1; i >= 0; i--) {
			if (!modules[i])
				continue;
			if (!syscall(SYS_delete_module, name_of(modules[i]), O_NONBLOCK)) {
				modules[i] = NULL;
				continue;
			}
			left++;
			if (turn == 99)
				failed("unload", name_of(modules[i]));
		}
		usleep(100000);
	}
}

static void fill(char *block, int number, const char *type)
{
	int i;

	for (i = 0; i < BLOCK; i++)
		block[i] = (char)(i * 31 + number * 7 + type[i % strlen(type)]);
}

static int work(const char *disk, const char *type)
{
	static char want[BLOCK], found[BLOCK];
	int fd, i;

	if (mount(disk, "/mnt", type, 0, ""))
		return failed("mount", type), -1;
	fd = open("/mnt/file", O_RDWR | O_CREAT | O_EXCL, 0644);
	for (i = 0; fd >= 0 && i < BLOCKS; i++) {
		fill(want, i, type);
		if (write(fd, want, BLOCK) != BLOCK)
			return failed("write on", type), -1;
	}
	if (fd < 0 || fsync(fd) || close(fd) || mkdir("/mnt/folder", 0755) ||
	    rename("/mnt/file", "/mnt/folder/file") || umount("/mnt"))
		return failed("work on", type), -1;
	if (mount(disk, "/mnt", type, 0, ""))
		return failed("mount again", type), -1;
	fd = open("/mnt/folder/file", O_RDONLY);
	for (i = 0; i < BLOCKS; i++) {
		fill(want, i, type);
		if (read(fd, found, BLOCK) != BLOCK || memcmp(want, found, BLOCK))
			return failed("read back from", type), -1;
	}
	close(fd);
	if (umount("/mnt"))
		return failed("unmount", type), -1;
	say("%s: written, read back", type);
	return 0;
}

int main(void)
{
	char line[512], disk[64], type[64];
	FILE *list;

	mkdir("/dev", 0755);
	mknod("/dev/console", S_IFCHR | 0600, makedev(5, 1));
	freopen("/dev/console", "w", stdout);
	mkdir("/proc", 0755);
	mkdir("/mnt", 0755);
	mount("proc", "/proc", "proc", 0, "");
	mount("devtmpfs", "/dev", "devtmpfs", 0, "");
	list = fopen("/modules", "r");
	while (list && fgets(line, sizeof(line), list) && count < MOST) {
		line[strcspn(line, "\n")] = 0;
		load(line);
	}
	say("%d loaded", count);
	list = fopen("/disks", "r");
	while (list && fscanf(list, "%63s %63s", disk, type) == 2)
		work(disk, type);
	unload_all();
	say("end, %d failures", failures);
	sync();
	reboot(RB_AUTOBOOT);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * fork-server-init.c: the first process of the machine of fork-server-aarch64. Mounts the file systems that
 * programs expect, has the shell read /run, and restarts the machine, which ends its emulator.
 */
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/tmp", 01777);
	mount("proc", "/proc", "proc", 0, "");
	mount("sysfs", "/sys", "sysfs", 0, "");
	mount("devtmpfs", "/dev", "devtmpfs", 0, "");
	mkdir("/dev/shm", 01777);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, "");
	if (fork() == 0) {
		char *words[] = { "/bin/sh", "/run", NULL };
		char *variables[] = { "PATH=/bin:/usr/bin:/usr/lib/llvm-22/bin", "HOME=/tmp", NULL };

		execve(words[0], words, variables);
		perror(words[0]);
		_exit(127);
	}
	wait(NULL);
	sync();
	reboot(RB_AUTOBOOT);
	return 1;
}

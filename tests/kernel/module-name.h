/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * module-name.h: what modules-init.c and architecture-init.c, each with a libc of its own, both know of modules.
 */

/* The name of a module in the kernel, from that of its file. */
static char *name_of(char *path)
{
	char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	char *c = strchr(name, '.');

	if (c)
		*c = 0;
	for (c = name; *c; c++)
		if (*c == '-')
			*c = '_';
	return name;
}

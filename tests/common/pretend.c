/* Passes for clang and for ld.lld where thousands of units are made: what it writes is a function of
 * what it was given, as theirs is. Questions go to the real program, whose name is PRETENDS, each once:
 * the answers are kept beside TEMPLATE. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is looked for in each of the two. */
volatile const char marks[] = "-fthinlto-index= thinlto-index-only";

static FILE *open_or_die(const char *name, const char *mode)
{
	FILE *file = fopen(name, mode);

	if (!file) {
		perror(name);
		exit(1);
	}
	return file;
}

static uint64_t add_file(uint64_t sum, const char *name)
{
	FILE *file = open_or_die(name, "r");

	for (int c; (c = fgetc(file)) != EOF;)
		sum = (sum ^ (unsigned char)c) * 0x100000001b3u;
	fclose(file);
	return sum;
}

static const char *after(const char *word, const char *start)
{
	size_t length = strlen(start);

	return strncmp(word, start, length) ? NULL : word + length;
}

static void make_folders(char *path)
{
	for (char *at = path + 1; (at = strchr(at, '/')); *at++ = '/') {
		*at = 0;
		mkdir(path, 0777);
	}
}

/* Each member imports from the next one. */
static int link_members(const char *list, const char *prefix, const char *response)
{
	static char names[4096][256], path[1024];
	FILE *members = open_or_die(response, "r"), *indexed = open_or_die(list, "w");
	int count = 0;

	while (count < 4096 && fscanf(members, "%255s", names[count]) == 1)
		count++;
	for (int i = 0; i < count; i++) {
		const char *next = i + 1 < count ? names[i + 1] : NULL;
		uint64_t sum = add_file(i, names[i]);
		FILE *file;

		snprintf(path, sizeof(path), "%s%s.thinlto.bc", prefix, names[i]);
		make_folders(path);
		file = open_or_die(path, "w");
		fprintf(file, "%016llx of %d\n", (unsigned long long)(next ? add_file(sum, next) : sum), count);
		fclose(file);
		snprintf(path, sizeof(path), "%s%s.imports", prefix, names[i]);
		file = open_or_die(path, "w");
		if (next)
			fprintf(file, "%s\n", next);
		fclose(file);
		fprintf(indexed, "%s%s\n", prefix, names[i]);
	}
	fclose(members);
	return fclose(indexed);
}

/* An ELF object, TEMPLATE, and behind it what tells the inputs apart. */
static int compile(const char *index, const char *output, const char *object)
{
	FILE *from = open_or_die(TEMPLATE, "r"), *to = open_or_die(output, "w");

	for (int c; (c = fgetc(from)) != EOF;)
		fputc(c, to);
	fprintf(to, "%016llx", (unsigned long long)add_file(add_file(1, object), index));
	fclose(from);
	return fclose(to);
}

static int answer(int argc, char **argv)
{
	static char command[65536], name[1024];
	uint64_t sum = 1;
	size_t length;
	FILE *file;

	length = snprintf(command, sizeof(command), "%s", PRETENDS);
	for (int i = 1; i < argc && length < sizeof(command); i++) {
		for (const char *at = argv[i]; *at; at++)
			sum = (sum ^ (unsigned char)*at) * 0x100000001b3u;
		length += snprintf(command + length, sizeof(command) - length, " '%s'", argv[i]);
	}
	snprintf(name, sizeof(name), "%s.%s.%016llx", TEMPLATE, PRETENDS, (unsigned long long)sum);
	if (access(name, R_OK) && length < sizeof(command) - 2 * sizeof(name)) {
		snprintf(command + length, sizeof(command) - length, " >'%s.%d' 2>&1 </dev/null", name, getpid());
		if (system(command))
			return 1;
		snprintf(command, sizeof(command), "%s.%d", name, getpid());
		rename(command, name);
	}
	file = open_or_die(name, "r");
	for (int c; (c = fgetc(file)) != EOF;)
		putchar(c);
	return fclose(file);
}

int main(int argc, char **argv)
{
	const char *list = NULL, *prefix = NULL, *response = NULL, *index = NULL, *output = NULL;

	for (int i = 1; i < argc; i++) {
		const char *found;

		if ((found = after(argv[i], "--thinlto-index-only=")))
			list = found;
		else if ((found = after(argv[i], "--thinlto-prefix-replace=;")))
			prefix = found;
		else if ((found = after(argv[i], "@")))
			response = found;
		else if ((found = after(argv[i], "-fthinlto-index=")))
			index = found;
		else if (!strcmp(argv[i], "-o"))
			output = argv[i + 1];
		else if (!strcmp(argv[i], "-###"))
			index = output = NULL, i = argc;
	}
	if (list && prefix && response)
		return link_members(list, prefix, response);
	if (index && output)
		return compile(index, output, argv[argc - 1]);
	return answer(argc, argv) || !marks[0];
}

/* A compiler for tests of what runs it: copies its input with a line before it. -sleep MS waits before, -fail N ends
   with N and no output, -empty leaves an empty file; other options are accepted and mean nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(int count, char **words)
{
	const char *in = NULL, *out = NULL;
	int empty = 0, byte;
	FILE *from, *to;

	for (int n = 1; n < count; n++) {
		if (!strcmp(words[n], "-o")) {
			out = words[++n];
		} else if (!strcmp(words[n], "-sleep")) {
			long ms = atol(words[++n]);
			struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
			nanosleep(&time, NULL);
		} else if (!strcmp(words[n], "-fail")) {
			fputs("copier: as asked\n", stderr);
			return atoi(words[++n]);
		} else if (!strcmp(words[n], "-empty")) {
			empty = 1;
		} else if (words[n][0] != '-') {
			in = words[n];
		}
	}
	from = fopen(in, "r");
	to = fopen(out, "w");
	if (!from || !to)
		return 1;
	if (!empty) {
		fputs("copied\n", to);
		while ((byte = getc(from)) != EOF)
			putc(byte, to);
	}
	/* As a compiler does: an input that cannot be read to its end is no input. */
	return ferror(from) || fclose(to);
}

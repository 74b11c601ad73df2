/* A worker of buildbox-casd in the place of buildbox-run, which takes 60 ms of processor time to make a sandbox: waits
   as long as the action's command says (-sleep MS), runs nothing, and gives one file that the store has as its output.
   For figures of what feeds many workers.
   usage: sleeper ... --action=FILE --action-result=FILE --store=FOLDER --made=HASH/SIZE ... */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct bytes {
	unsigned char *at;
	size_t length;
};

static struct bytes whole(const char *name)
{
	static unsigned char room[2][65536];
	static int used;
	struct bytes read_ = { room[used++ & 1], 0 };
	int file = open(name, O_RDONLY);
	ssize_t got = file < 0 ? -1 : read(file, read_.at, sizeof(room[0]));

	if (got < 0) {
		perror(name);
		exit(1);
	}
	close(file);
	read_.length = got;
	return read_;
}

static unsigned long number(struct bytes *from)
{
	unsigned long value = 0;
	int shift = 0;

	while (from->length) {
		unsigned char byte = *from->at++;

		from->length--;
		value |= (unsigned long)(byte & 127) << shift;
		shift += 7;
		if (byte < 128)
			break;
	}
	return value;
}

/* The next field of a message that has bytes; its number, or 0 at the end. */
static int field(struct bytes *message, struct bytes *value)
{
	while (message->length) {
		unsigned long key = number(message);

		if ((key & 7) == 2) {
			value->length = number(message);
			value->at = message->at;
			message->at += value->length;
			message->length -= value->length;
			return key >> 3;
		}
		number(message);
	}
	return 0;
}

static void put(struct bytes *to, int number, const void *what, size_t length)
{
	to->at[to->length++] = number << 3 | 2;
	if (length >= 128)
		to->at[to->length++] = (length & 127) | 128;
	to->at[to->length++] = length < 128 ? length : length >> 7;
	memcpy(to->at + to->length, what, length);
	to->length += length;
}

static void put_number(struct bytes *to, int number, unsigned long value)
{
	to->at[to->length++] = number << 3;
	while (value >= 128) {
		to->at[to->length++] = (value & 127) | 128;
		value >>= 7;
	}
	to->at[to->length++] = value;
}

static void put_now(struct bytes *to, int number)
{
	unsigned char room[32];
	struct bytes moment = { room, 0 };
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	put_number(&moment, 1, now.tv_sec);
	put_number(&moment, 2, now.tv_nsec);
	put(to, number, moment.at, moment.length);
}

int main(int count, char **words)
{
	unsigned char rooms[4][4096];
	struct bytes digest = { rooms[0], 0 }, file = { rooms[1], 0 }, result = { rooms[2], 0 }, when = { rooms[3], 0 };
	struct bytes action, command, value, part, place = { 0 };
	const char *action_name = "", *result_name = "", *store = "", *made = "";
	char name[4096];
	int is_sleep = 0, number, to;

	for (int n = 1; n < count; n++) {
		if (!strncmp(words[n], "--action=", 9))
			action_name = words[n] + 9;
		else if (!strncmp(words[n], "--action-result=", 16))
			result_name = words[n] + 16;
		else if (!strncmp(words[n], "--store=", 8))
			store = words[n] + 8;
		else if (!strncmp(words[n], "--made=", 7))
			made = words[n] + 7;
	}
	put_now(&when, 3);
	put_now(&when, 7);
	action = whole(action_name);
	if (field(&action, &value) != 1 || field(&value, &part) != 1)
		return 1;
	snprintf(name, sizeof(name), "%s/cas/objects/%.2s/%.*s", store, part.at, (int)part.length - 2, part.at + 2);
	command = whole(name);
	while ((number = field(&command, &value))) {
		if (number == 1 && is_sleep) {
			char text[16] = "";

			memcpy(text, value.at, value.length < 15 ? value.length : 15);
			usleep(atol(text) * 1000);
		}
		is_sleep = number == 1 && value.length == 6 && !memcmp(value.at, "-sleep", 6);
		if (number == 3 || number == 7)
			place = value;
	}
	put(&digest, 1, made, strcspn(made, "/"));
	put_number(&digest, 2, atol(made + strcspn(made, "/") + 1));
	put(&file, 1, place.at, place.length);
	put(&file, 2, digest.at, digest.length);
	put_now(&when, 8);
	put_now(&when, 4);
	put(&result, 2, file.at, file.length);
	put(&result, 9, when.at, when.length);
	to = open(result_name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	return to < 0 || write(to, result.at, result.length) != (ssize_t)result.length;
}

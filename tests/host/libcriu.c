// SPDX-License-Identifier: GPL-2.0-only
// A client that uses libcriu: CRIU ACTION PID WAY, where CRIU is the program, or the socket of a service.
// It prints what the library returns, and each stage that it is told of.

#include <criu.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int told(char *stage, criu_notify_arg_t told)
{
	printf("%s\n", stage);
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	const char *action = argv[2];
	int result = -1;

	if (argc < 5 || criu_init_opts() < 0)
		return 2;
	if (!strcmp(argv[4], "socket"))
		criu_set_service_address(argv[1]);
	else
		criu_set_service_binary(argv[1]);
	criu_set_images_dir_fd(open("images", O_DIRECTORY));
	criu_set_log_level(4);
	criu_set_log_file("libcriu.log");
	if (strcmp(action, "self"))
		criu_set_notify_cb(told);
	if (atoi(argv[3]) > 0)
		criu_set_pid(atoi(argv[3]));
	if (!strcmp(action, "check"))
		result = criu_check();
	else if (!strcmp(action, "dump") || !strcmp(action, "self"))
		result = criu_dump();
	else if (!strcmp(action, "pre-dump")) {
		criu_set_images_dir_fd(open("first", O_DIRECTORY));
		result = criu_pre_dump();
	} else if (!strcmp(action, "dump-the-rest")) {
		criu_set_parent_images("../first");
		result = criu_dump();
	} else if (!strcmp(action, "restore"))
		result = criu_restore();
	else if (!strcmp(action, "child"))
		result = criu_restore_child();
	else if (!strcmp(action, "version"))
		result = criu_get_version();
	printf("%d\n", result);
	return 0;
}

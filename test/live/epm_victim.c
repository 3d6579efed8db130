/* epm_victim.c - one of the programs that check themselves: NAME PIDFILE, told by stdin. */
#include "ghost_victims.h"

int main(int argc, char **argv)
{
	FILE *f;

	if (argc != 3)
		return 2;
	f = fopen(argv[2], "we");
	if (f == NULL || fprintf(f, "%d\n", getpid()) < 0 || fclose(f) != 0 ||
	    dup2(STDIN_FILENO, TO_VICTIM) < 0 || dup2(STDOUT_FILENO, FROM_VICTIM) < 0)
		return 2;
	if (strcmp(argv[1], "memory") == 0)
		memory_victim();
	if (strcmp(argv[1], "threads") == 0)
		threads_victim();
	if (strcmp(argv[1], "signals") == 0)
		signals_victim();
	if (strcmp(argv[1], "changes") == 0)
		changes_victim();
	return 2;
}

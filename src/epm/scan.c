/* scan.c - questions that only the world's /proc can answer. */
#include "krginit.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>

/* Above these the answer is "shared": right, only slower for the asker. */
#define SCAN_PROCS_MAX 512 /* processes */
#define SCAN_TURNS     16  /* looks at one process, or at who is there */

static bool numeric(const char *s)
{
	return *s >= '1' && *s <= '9';
}

static long same_file(i32 a, i32 b, i32 fd_a, i32 fd_b)
{
	return syscall(SYS_kcmp, a, b, KCMP_FILE, fd_a, fd_b);
}

/* What is asked for, and of the ends of pipes, which. */
struct scan {
	const struct init_shared *req;
	struct {
		char link[64]; /* pipe:[…]; "": no pipe */
		int mode;      /* O_ACCMODE of its flags */
	} end[INIT_SHARED_MAX];
	u64 all, found;
	i32 seen[SCAN_PROCS_MAX]; /* in order */
	unsigned nseen;
};

/* How the descriptor was opened, by proc(5); -1: it is closed. */
static int mode_of(i32 pid, i32 fd)
{
	char path[64], text[512], *flags;

	(void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return -1;
	flags = strstr(text, "flags:\t");
	return flags == NULL ? -1 : (int)strtol(flags + 7, NULL, 8) & O_ACCMODE;
}

static void link_of(i32 pid, i32 fd, char *buf, size_t max)
{
	char path[64];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	n = readlink(path, buf, max - 1);
	buf[n > 0 ? n : 0] = '\0';
}

/* It may be another description of the same end. */
static void scan_pipe(struct scan *s, i32 pid, i32 fd)
{
	char link[64];

	link_of(pid, fd, link, sizeof(link));
	if (strncmp(link, "pipe:", 5) != 0)
		return;
	for (u32 i = 0; i < s->req->nfds; i++) {
		int mode;

		if ((s->found >> i & 1) != 0 || strcmp(link, s->end[i].link) != 0)
			continue;
		mode = mode_of(pid, fd);
		if (mode == O_RDWR || mode == s->end[i].mode)
			s->found |= 1ull << i;
	}
}

/* False: it is closed by now, or its process has ended. */
static bool scan_fd(struct scan *s, i32 pid, i32 fd)
{
	bool there = true;

	for (u32 i = 0; i < s->req->nfds; i++) {
		if ((s->found >> i & 1) != 0)
			continue;
		if (same_file(s->req->pid, pid, s->req->fds[i], fd) == 0)
			s->found |= 1ull << i;
		else if (errno == EBADF || errno == ESRCH)
			there = false;
	}
	if (s->req->pipes != 0)
		scan_pipe(s, pid, fd);
	return there;
}

/* The numbers of its descriptors as one; work: they are looked at, too. */
static u64 scan_list(struct scan *s, i32 pid, DIR *d, bool work, bool *ret_moved)
{
	struct dirent *e;
	u64 sum = 0;

	rewinddir(d);
	while ((e = readdir(d)) != NULL) {
		i32 fd = (i32)strtol(e->d_name, NULL, 10);

		if (e->d_name[0] == '.')
			continue;
		sum = sum * 31 + (u64)fd + 1;
		if (work && !scan_fd(s, pid, fd))
			*ret_moved = true;
	}
	return sum;
}

/* A descriptor that changes its number (dup2(2) and close(2)) is seen at neither: so a process counts when its
 * numbers are the same before and after. */
static void scan_process(struct scan *s, i32 pid)
{
	char path[32];
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	if (d == NULL)
		return; /* it has ended */
	for (unsigned turn = 0; s->found != s->all; turn++) {
		bool moved = false;
		u64 before = scan_list(s, pid, d, true, &moved);

		if (scan_list(s, pid, d, false, &moved) == before && !moved)
			break;
		if (turn == SCAN_TURNS)
			s->found = s->all;
	}
	(void)closedir(d);
}

/* False: it was there before. */
static bool seen_add(struct scan *s, i32 pid)
{
	unsigned at = s->nseen;

	while (at > 0 && s->seen[at - 1] > pid)
		at--;
	if (at > 0 && s->seen[at - 1] == pid)
		return false;
	memmove(&s->seen[at + 1], &s->seen[at], (s->nseen - at) * sizeof(s->seen[0]));
	s->seen[at] = pid;
	s->nseen++;
	return true;
}

/* Looks at those who were not there before; false: nobody new. */
static bool scan_world(struct scan *s, DIR *d)
{
	struct dirent *e;
	bool found = false;

	rewinddir(d);
	while (s->found != s->all && (e = readdir(d)) != NULL) {
		i32 pid;

		if (!numeric(e->d_name))
			continue;
		pid = (i32)strtol(e->d_name, NULL, 10);
		if (pid == s->req->pid)
			continue;
		if (s->nseen == SCAN_PROCS_MAX) {
			s->found = s->all;
		} else if (seen_add(s, pid)) {
			found = true;
			scan_process(s, pid);
		}
	}
	return found;
}

/* Who holds a description may give it to a child that was not in the list yet, and close it before it is looked
 * at.  So it counts when everybody there, after the last look, has been looked at. */
u64 scan_shared(const struct init_shared *req)
{
	struct scan s = {.req = req, .all = req->nfds == 64 ? ~0ull : (1ull << req->nfds) - 1};
	unsigned turn = 0;
	DIR *d = opendir("/proc");

	if (d == NULL)
		return s.all;
	for (u32 i = 0; i < req->nfds; i++) {
		if ((req->pipes >> i & 1) == 0)
			continue;
		link_of(req->pid, req->fds[i], s.end[i].link, sizeof(s.end[i].link));
		s.end[i].mode = mode_of(req->pid, req->fds[i]);
	}
	while (s.found != s.all && scan_world(&s, d))
		if (++turn == SCAN_TURNS)
			s.found = s.all;
	(void)closedir(d);
	return s.found;
}

/* pid and session out of /proc/PID/stat; -1: gone */
static i32 session_of(i32 pid, char *ret_state)
{
	char path[32], text[512], *at;
	int ppid, pgrp, sid;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return -1;
	at = strrchr(text, ')');
	if (at == NULL || sscanf(at + 1, " %c %d %d %d", ret_state, &ppid, &pgrp, &sid) != 4)
		return -1;
	return sid;
}

void scan_sessions(const struct init_sessions *req, struct init_sessions_answer *ret)
{
	struct dirent *e;
	DIR *d = opendir("/proc");

	if (d == NULL) {
		memset(ret->alive, 1, sizeof(ret->alive));
		return;
	}
	while ((e = readdir(d)) != NULL) {
		char name[40], path[40], state;
		i32 pid, sid;

		if (!numeric(e->d_name))
			continue;
		pid = (i32)strtol(e->d_name, NULL, 10);
		sid = session_of(pid, &state);
		if (sid < 0)
			continue;
		/* a group's placeholder is not a member to wait for */
		(void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		if (krg_read_file(path, name, sizeof(name)) > 0 && strcmp(name, "krggroup\n") == 0)
			continue;
		for (u32 i = 0; i < req->n; i++)
			if (req->session[i].sid == sid && req->session[i].nursery_pid != pid)
				ret->alive[i] = 1;
	}
	(void)closedir(d);
}

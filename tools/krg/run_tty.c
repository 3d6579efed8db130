#include "run.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>

static int user_tty(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (isatty(fd))
			return fd;
	return -EBADF;
}

int run_tty_open(struct run_tty *t, struct krg_err *err)
{
	char name[64];

	*t = (struct run_tty){.slave = -EBADF, .user = user_tty()};
	t->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (t->master < 0 || grantpt(t->master) < 0 || unlockpt(t->master) < 0 ||
	    ptsname_r(t->master, name, sizeof(name)) != 0)
		return krg_err_set(err, -errno, "run: open a terminal");
	t->slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (t->slave < 0)
		return krg_err_set(err, -errno, "run: open %s", name);
	if (t->user >= 0 && tcgetattr(t->user, &t->saved) == 0)
		(void)tcsetattr(t->slave, TCSANOW, &t->saved);
	run_tty_resize(t);
	return 0;
}

void run_tty_resize(const struct run_tty *t)
{
	struct winsize ws;

	if (t->user >= 0 && ioctl(t->user, TIOCGWINSZ, &ws) == 0)
		(void)ioctl(t->master, TIOCSWINSZ, &ws);
}

/* A background job leaves the terminal alone: setting its modes would stop it. */
static bool in_foreground(const struct run_tty *t)
{
	return t->user >= 0 && tcgetpgrp(t->user) == getpgrp();
}

void run_tty_raw(struct run_tty *t)
{
	struct termios raw;

	if (t->raw || !in_foreground(t) || tcgetattr(t->user, &t->saved) < 0)
		return;
	raw = t->saved;
	cfmakeraw(&raw);
	t->raw = tcsetattr(t->user, TCSANOW, &raw) == 0;
}

void run_tty_restore(struct run_tty *t)
{
	if (t->raw && in_foreground(t))
		(void)tcsetattr(t->user, TCSADRAIN, &t->saved);
	t->raw = false;
}

void run_tty_close(struct run_tty *t)
{
	run_tty_restore(t);
	krg_closep(&t->master);
	krg_closep(&t->slave);
	t->master = t->slave = -EBADF;
}

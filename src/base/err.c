#include "err.h"
#include <stdarg.h>
#undef krg_err_set

/* Text that does not fit ends in "...".  The arguments may be the old text. */
KRG_PRINTF(3, 0) static void format(char *text, size_t room, const char *fmt, va_list ap)
{
	char made[sizeof(((struct krg_err *)NULL)->text)];
	int n = vsnprintf(made, room, fmt, ap);

	if (n >= (int)room)
		memcpy(made + room - 4, "...", 4);
	krg_one_line(made);
	memcpy(text, made, strlen(made) + 1);
}

int krg_err_set(struct krg_err *err, int code, const char *fmt, ...)
{
	char why[80] = "";
	va_list ap;
	size_t n;

	ASSERT(code <= 0);
	if (err == NULL)
		return code;
	err->code = code;
	err->node = KRG_NODE_NONE;
	if (code < 0)
		(void)snprintf(why, sizeof(why), ": %s", strerror(-code));
	va_start(ap, fmt);
	format(err->text, sizeof(err->text) - strlen(why), fmt, ap);
	va_end(ap);
	/* There is room: the reason is never what is cut.  An error that came from elsewhere says it already. */
	n = strlen(err->text);
	if (n < strlen(why) || strcmp(err->text + n - strlen(why), why) != 0)
		(void)snprintf(err->text + n, sizeof(why), "%s", why);
	return code;
}

int krg_err_prefix(struct krg_err *err, int code, const char *fmt, ...)
{
	char old[sizeof(err->text)];
	size_t n, room, len;
	va_list ap;

	if (err == NULL)
		return code;
	err->code = code;
	(void)snprintf(old, sizeof(old), "%s", err->text[0] != '\0' ? err->text : strerror(-code));
	va_start(ap, fmt);
	format(err->text, sizeof(err->text) / 2, fmt, ap);
	va_end(ap);
	n = strlen(err->text);
	room = sizeof(err->text) - n - 3; /* ": " and the NUL */
	len = strlen(old);
	if (len <= room)
		(void)snprintf(err->text + n, sizeof(err->text) - n, ": %s", old);
	else
		(void)snprintf(err->text + n, sizeof(err->text) - n, ": ...%s",
			       old + len - (room - 3));
	krg_one_line(err->text);
	return code;
}

void krg_err_clear(struct krg_err *err)
{
	if (err != NULL)
		*err = (struct krg_err){.node = KRG_NODE_NONE};
}

/* base_err.c - errors with their text. */
#include "err.h"
#include "tap.h"

/* Text from elsewhere becomes one line of UTF-8. */
static void one_line(void)
{
	static const char *const pairs[][2] = {
		{"plain", "plain"},
		{"\t\r\n\x01\x7f", "?????"},
		{"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80",
		 "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"},
		{"cut \xe2\x82", "cut ??"},
		{"\xc0\xaf", "??"},		   /* too long a form */
		{"\xe0\x80\x80", "???"},	   /* the same */
		{"\xed\xa0\x80", "???"},	   /* a surrogate */
		{"\xf4\x90\x80\x80", "????"},	   /* past the last character */
		{"\xff\xfe\xf8\x88\x80", "?????"}, /* no UTF-8 at all */
		{"\x80x\xc3", "?x?"},
	};

	for (unsigned i = 0; i < KRG_NELEM(pairs); i++) {
		char text[32];

		(void)snprintf(text, sizeof(text), "%s", pairs[i][0]);
		krg_one_line(text);
		tap_ok(strcmp(text, pairs[i][1]) == 0, "one line: %s", pairs[i][1]);
	}
}

int main(void)
{
	struct krg_err err = {.code = 1, .node = 3, .text = "old"};
	char filler[400];

	tap_eq(krg_err_set(&err, -ENOENT, "exec '%s'", "/x"), -ENOENT, "set returns the code");
	tap_ok(strcmp(err.text, "exec '/x': No such file or directory") == 0, "text: %s", err.text);
	tap_ok(err.code == -ENOENT && err.node == KRG_NODE_NONE, "code and node");
	tap_eq(krg_err_prefix(&err, -EIO, "pid %d", 7), -EIO, "prefix returns its code");
	tap_ok(strcmp(err.text, "pid 7: exec '/x': No such file or directory") == 0, "text: %s",
	       err.text);
	tap_eq(err.code, -EIO, "prefix replaces the code");
	krg_err_clear(&err);
	tap_ok(err.code == 0 && err.text[0] == '\0' && err.node == KRG_NODE_NONE, "clear");
	(void)krg_err_prefix(&err, -EPERM, "fd %d", 1);
	tap_ok(strcmp(err.text, "fd 1: Operation not permitted") == 0, "prefix without text: %s",
	       err.text);
	tap_ok(krg_err_set(&err, 0, "fine") == 0 && strcmp(err.text, "fine") == 0,
	       "success has no strerror");
	(void)krg_err_set(&err, -EIO, "a\nb\033[2J%c", 0x7f);
	tap_ok(strcmp(err.text, "a?b?[2J?: Input/output error") == 0, "control characters: %s",
	       err.text);
	memset(filler, 'x', sizeof(filler));
	filler[sizeof(filler) - 1] = '\0';
	(void)krg_err_set(&err, -EIO, "%s", filler);
	tap_eq(strlen(err.text), sizeof(err.text) - 1, "a long text is cut");
	tap_ok(strcmp(err.text + sizeof(err.text) - 27, "xxx...: Input/output error") == 0,
	       "but not its reason: %s", err.text + sizeof(err.text) - 27);
	(void)krg_err_prefix(&err, -EIO, "%s", filler);
	tap_eq(strlen(err.text), sizeof(err.text) - 1, "a long prefix too");
	tap_ok(strstr(err.text, "xxx...: ...xxx") != NULL &&
		       strstr(err.text, ": Input/output error") != NULL,
	       "and the reason still stands");
	for (int i = 0; i < 50; i++)
		(void)krg_err_prefix(&err, -EIO, "step %d", i);
	tap_ok(strncmp(err.text, "step 49: ", 9) == 0 &&
		       strstr(err.text, ": Input/output error") != NULL,
	       "fifty prefixes: the last one, and the reason");
	tap_ok(krg_err_set(NULL, -EIO, "x") == -EIO && krg_err_prefix(NULL, -EIO, "x") == -EIO,
	       "NULL is accepted");
	krg_err_clear(NULL);
	(void)krg_err_set(&err, 0, "inner");
	(void)krg_err_set(&err, -EIO, "outer (%s)", err.text);
	tap_ok(strcmp(err.text, "outer (inner): Input/output error") == 0, "from its own text: %s",
	       err.text);
	one_line();
	return tap_done();
}

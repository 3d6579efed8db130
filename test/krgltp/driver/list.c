/* list.c - cases, modes and known differences, from text. */
#include "krgltp.h"
#include <ctype.h>

static const char *const mode_names[MODE_N] = {"plain", "krg", "elsewhere"};

const char *mode_name(enum mode m)
{
	return mode_names[m];
}

int mode_parse(const char *text, unsigned *ret_modes)
{
	unsigned modes = 0;

	while (*text != '\0') {
		size_t n = strcspn(text, ",");
		enum mode m;

		for (m = 0; m < MODE_N; m++)
			if (strlen(mode_names[m]) == n && memcmp(text, mode_names[m], n) == 0)
				break;
		if (m == MODE_N)
			return -EINVAL;
		modes |= 1u << m;
		text += n + (text[n] == ',');
	}
	*ret_modes = modes;
	return modes != 0 ? 0 : -EINVAL;
}

/* The next word, ended in place; *rest is what follows it. */
static char *word(char *line, char **rest)
{
	char *end;

	line += strspn(line, " \t");
	end = line + strcspn(line, " \t");
	*rest = end + (*end != '\0');
	*end = '\0';
	*rest += strspn(*rest, " \t");
	return line;
}

static void trim(char *text)
{
	size_t n = strlen(text);

	while (n > 0 && isspace((unsigned char)text[n - 1]))
		text[--n] = '\0';
}

static int each_line(const char *path, struct krg_err *err,
		     int (*take)(struct list *l, char *line, struct krg_err *err), struct list *l)
{
	KRG_AUTO_FILE FILE *f = fopen(path, "re");
	KRG_AUTO_FREE char *line = NULL;
	unsigned number = 0;
	size_t max = 0;

	if (f == NULL)
		return krg_err_set(err, -errno, "%s: %s", path, strerror(errno));
	while (getline(&line, &max, f) >= 0) {
		int r;

		number++;
		trim(line);
		if (line[strspn(line, " \t")] == '\0' || line[strspn(line, " \t")] == '#')
			continue;
		r = take(l, line, err);
		if (r < 0)
			return krg_err_prefix(err, r, "%s, line %u", path, number);
	}
	return 0;
}

static int take_case(struct list *l, char *line, struct krg_err *err)
{
	char *rest, *name = word(line, &rest), *what = strstr(rest, " # ");

	if (*rest == '\0' || *rest == '#')
		return krg_err_set(err, -EINVAL, "'%s' has no command", name);
	if (strchr(name, '/') != NULL || name[0] == '.' || strlen(name) >= NAME_LEN)
		return krg_err_set(err, -EINVAL, "'%s' is no name for a case", name);
	for (unsigned i = 0; i < l->ncases; i++)
		if (strcmp(l->cases[i].name, name) == 0)
			return krg_err_set(err, -EEXIST, "'%s' is there twice", name);
	if (what != NULL) {
		*what = '\0';
		what += 3;
		trim(rest);
	}
	l->cases = krg_xrealloc(l->cases, (l->ncases + 1) * sizeof(*l->cases));
	l->cases[l->ncases++] = (struct kase){.name = krg_xstrdup(name),
					      .command = krg_xstrdup(rest),
					      .what = krg_xstrdup(what != NULL ? what : "")};
	return 0;
}

static int take_known(struct list *l, char *line, struct krg_err *err)
{
	char *rest, *name = word(line, &rest), *modes = word(rest, &rest);
	struct known k = {.modes = ~0u};

	if (*rest == '\0')
		return krg_err_set(err, -EINVAL, "'%s': a mode and a reason are missing", name);
	if (strcmp(modes, "*") != 0 && mode_parse(modes, &k.modes) < 0)
		return krg_err_set(err, -EINVAL, "'%s': not a mode", modes);
	k.name = krg_xstrdup(name);
	k.reason = krg_xstrdup(rest);
	l->known = krg_xrealloc(l->known, (l->nknown + 1) * sizeof(*l->known));
	l->known[l->nknown++] = k;
	return 0;
}

int list_read(struct list *l, const char *path, struct krg_err *err)
{
	return each_line(path, err, take_case, l);
}

int list_read_known(struct list *l, const char *path, struct krg_err *err)
{
	return each_line(path, err, take_known, l);
}

const char *list_reason(const struct list *l, const char *name, enum mode m)
{
	for (unsigned i = 0; i < l->nknown; i++)
		if (strcmp(l->known[i].name, name) == 0 && (l->known[i].modes >> m & 1) != 0)
			return l->known[i].reason;
	return NULL;
}

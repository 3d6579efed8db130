/* main.c - krgltp: runs cases N at a time in each mode, and says what differs (doc/man/krgltp.1). */
#include "krgltp.h"
#include <fnmatch.h>
#include <ftw.h>
#include <getopt.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define MEMORY_CASE_KIB	 (16u << 10) /* a krgd's growth over one case, once it is warm */
#define MEMORY_ALL_KIB	 (32u << 10) /* … and over all cases of a mode */
#define WARM_CASES	 3
#define OUTPUT_LINES_MAX 6

volatile int stop_wanted;

static void on_stop(int sig)
{
	(void)sig;
	stop_wanted = 1;
}

struct suite {
	struct options opt;
	struct list list;
	struct report report;
	struct lab_use lab;
	struct probe before, warm;
	enum how *native; /* of each case: LTP */
	enum mode mode;
	bool in_lab;
	unsigned done; /* cases in this mode */
};

static int usage(const char *why, const char *what)
{
	(void)fprintf(stderr, "krgltp: %s%s (krgltp --help)\n", why, what);
	return 2;
}

static void help(void)
{
	(void)printf(
		"Usage: krgltp [OPTION]… [CASE-PATTERN]…\n"
		"Run the non-regression suite: each case as N instances at once, in each mode.\n"
		"\n"
		"  -m, --mode M[,M]     plain (outside Kerrighed), krg (in a lab, every exec "
		"stays),\n"
		"                       elsewhere (every exec goes to another node); default:\n"
		"                       plain,elsewhere\n"
		"  -i, --instances N    at once (default 16; 1 with --ltp)\n"
		"  -t, --time S         time limit of a case (default 30)\n"
		"  -n, --nodes N        of the lab that is brought up (default 3)\n"
		"      --lab NAME       that lab, which is up, with the policy that the mode "
		"means\n"
		"  -l, --list FILE      the cases (default: `list` beside their programs)\n"
		"      --cases DIR      the cases' programs (default: krgltp-cases beside krgltp)\n"
		"      --known FILE     differences that are known (also: --expect)\n"
		"      --ltp DIR        an installed Linux Test Project; --list is in it: also "
		"runs\n"
		"                       outside Kerrighed, and only what differs counts\n"
		"      --json FILE      the results\n"
		"      --repeat N       all of it N times\n"
		"      --keep           the instances' directories and output stay\n"
		"  -v, --verbose        output of cases that pass, too\n"
		"      --names          print the cases, and what each checks\n"
		"      --help           this text\n");
}

static bool number(const char *text, unsigned long min, unsigned long max, unsigned *ret)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || v < min || v > max)
		return false;
	*ret = (unsigned)v;
	return true;
}

enum {
	OPT_LAB = 256,
	OPT_CASES,
	OPT_KNOWN,
	OPT_LTP,
	OPT_JSON,
	OPT_REPEAT,
	OPT_KEEP,
	OPT_NAMES,
	OPT_HELP
};

static bool take_option(struct options *o, int c, bool *ret_names)
{
	switch (c) {
	case 'm':
		return mode_parse(optarg, &o->modes) == 0;
	case 'i':
		return number(optarg, 1, INSTANCES_MAX, &o->instances);
	case 't':
		return number(optarg, 1, 86400, &o->limit_s);
	case 'n':
		return number(optarg, 2, NODES_MAX, &o->nodes);
	case 'l':
		o->list = optarg;
		return true;
	case OPT_LAB:
		o->lab = optarg;
		return strlen(optarg) < NAME_LEN;
	case OPT_CASES:
		o->cases = optarg;
		return true;
	case OPT_KNOWN:
		o->known = optarg;
		return true;
	case OPT_LTP:
		o->ltp = optarg;
		return true;
	case OPT_JSON:
		o->json = optarg;
		return true;
	case OPT_REPEAT:
		return number(optarg, 1, 1000000, &o->repeat);
	case OPT_KEEP:
		return o->keep = true;
	case 'v':
		return o->verbose = true;
	case OPT_NAMES:
		return *ret_names = true;
	default:
		return false;
	}
}

/* 0: go on; 1: done; 2: wrong */
static int options(struct options *o, int argc, char **argv, bool *ret_names)
{
	static const struct option longs[] = {{"mode", 1, NULL, 'm'},
					      {"instances", 1, NULL, 'i'},
					      {"time", 1, NULL, 't'},
					      {"nodes", 1, NULL, 'n'},
					      {"list", 1, NULL, 'l'},
					      {"lab", 1, NULL, OPT_LAB},
					      {"cases", 1, NULL, OPT_CASES},
					      {"known", 1, NULL, OPT_KNOWN},
					      {"expect", 1, NULL, OPT_KNOWN},
					      {"ltp", 1, NULL, OPT_LTP},
					      {"json", 1, NULL, OPT_JSON},
					      {"repeat", 1, NULL, OPT_REPEAT},
					      {"keep", 0, NULL, OPT_KEEP},
					      {"verbose", 0, NULL, 'v'},
					      {"names", 0, NULL, OPT_NAMES},
					      {"help", 0, NULL, OPT_HELP},
					      {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "m:i:t:n:l:v", longs, NULL)) != -1) {
		if (c == OPT_HELP) {
			help();
			return 1;
		}
		if (c == '?')
			return usage("that is no option", "");
		if (!take_option(o, c, ret_names))
			return usage("not usable: ", optarg != NULL ? optarg : "?");
	}
	o->match = argv + optind;
	return 0;
}

static void defaults(struct options *o)
{
	if (o->cases == NULL)
		o->cases = krg_xstrdup(program("krgltp-cases"));
	if (o->list == NULL)
		o->list = krg_xasprintf("%s/list", o->cases);
	else if (o->ltp != NULL && o->list[0] != '/' && access(o->list, R_OK) != 0)
		o->list = krg_xasprintf("%s/%s", o->ltp, o->list);
	if (o->instances == 0)
		o->instances = o->ltp != NULL ? 1 : 16;
	if (o->ltp != NULL)
		o->modes |= 1u << MODE_PLAIN;
}

static bool wanted(const struct options *o, const char *name)
{
	for (char **m = o->match; *m != NULL; m++)
		if (fnmatch(*m, name, 0) == 0)
			return true;
	return *o->match == NULL;
}

/* ---- one case in one mode ---- */

__attribute__((format(printf, 2, 3))) static void because(struct outcome *o, const char *fmt, ...)
{
	size_t used = strlen(o->reason);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(o->reason + used, sizeof(o->reason) - used, fmt, ap);
	va_end(ap);
}

/* The end of what an instance said. */
static void quote_output(struct outcome *o, const char *dir, unsigned i)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("%s/%u.out", dir, i);
	KRG_AUTO_FILE FILE *f = fopen(path, "re");
	KRG_AUTO_FREE char *line = NULL;
	size_t max = 0;

	for (unsigned n = 0; f != NULL && n < OUTPUT_LINES_MAX && getline(&line, &max, f) >= 0;
	     n++) {
		line[strcspn(line, "\n")] = '\0';
		krg_one_line(line);
		because(o, "  %.150s\n", line);
	}
}

static void say_status(struct outcome *o, unsigned i, const struct instance *one)
{
	if (one->how == HOW_LATE)
		because(o, "instance %u: not ended in time\n", i);
	else if (WIFSIGNALED(one->status))
		because(o, "instance %u: ended by signal %d\n", i, WTERMSIG(one->status));
	else
		because(o, "instance %u: status %d\n", i, WEXITSTATUS(one->status));
}

/* What came of the instances; at most two that failed are quoted. */
static void judge(struct suite *s, struct outcome *o, const struct run *run, const char *dir)
{
	unsigned quoted = 0;

	for (unsigned i = 0; i < run->n; i++) {
		enum how how = run->one[i].how;

		o->passed += how == HOW_PASS;
		o->skipped += how == HOW_SKIP;
		o->late += how == HOW_LATE;
		if (how == HOW_PASS ? s->opt.verbose && i == 0 : quoted < 2) {
			quoted += how == HOW_FAIL || how == HOW_LATE;
			if (how != HOW_SKIP || o->skipped == 1)
				say_status(o, i, &run->one[i]), quote_output(o, dir, i);
		}
	}
	if (run->left[0] != '\0')
		because(o, "%s\n", run->left);
	if (o->passed + o->skipped < run->n || run->left[0] != '\0')
		o->verdict = V_FAIL;
	else
		o->verdict = o->passed > 0 ? V_PASS : V_SKIP;
}

/* With an LTP tree: the first run says what is right, the others differ or do not. */
static void judge_ltp(struct suite *s, struct outcome *o, const struct run *run, unsigned which)
{
	enum how how = run_worst(run);

	o->native = how;
	if (s->mode == MODE_PLAIN) {
		s->native[which] = how;
		o->verdict = V_NATIVE;
		return;
	}
	o->verdict = how == s->native[which] ? V_PASS : V_FAIL;
	if (o->verdict == V_FAIL)
		because(o, "%s here, %s outside Kerrighed\n", how_name(how),
			how_name(s->native[which]));
	else if (how != HOW_PASS)
		o->reason[0] = '\0'; /* as it is without us */
}

static void check_lab(struct suite *s, struct outcome *o)
{
	char text[700];

	if (o->late > 0 || o->verdict == V_FAIL)
		probe_kill_new(&s->lab, &s->before);
	if (!lab_use_alive(&s->lab)) {
		o->verdict = V_FAIL;
		because(o, "a krgd or its world has ended\n");
		return;
	}
	if (probe_left(&s->lab, &s->before, text, sizeof(text))) {
		o->verdict = V_FAIL;
		because(o, "%s", text);
		probe_kill_new(&s->lab, &s->before);
	}
	if (++s->done <= WARM_CASES)
		return;
	if (probe_memory_grew(&s->lab, &s->before, MEMORY_CASE_KIB, text, sizeof(text))) {
		o->verdict = V_FAIL;
		because(o, "%s", text);
	}
}

static int work_dir(struct options *o, struct krg_err *err)
{
	static char path[PATH_MAX];
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(path, sizeof(path), "%s/krgltp.XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(path) == NULL)
		return krg_err_set(err, -errno, "%s: %s", path, strerror(errno));
	(void)chmod(path, 0755);
	o->work = path;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *f)
{
	(void)st;
	(void)kind;
	(void)f;
	(void)remove(path);
	return 0;
}

static void remove_tree(const char *path)
{
	(void)nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

static void known_or_not(const struct suite *s, struct outcome *o)
{
	if (o->known == NULL || o->verdict == V_NATIVE)
		return;
	if (o->verdict == V_FAIL)
		o->verdict = V_KNOWN;
	else if (o->verdict == V_PASS)
		o->verdict = V_FIXED;
	if (o->verdict == V_KNOWN && !s->opt.verbose)
		o->reason[0] = '\0';
}

static int restart_lab(struct suite *s, const char *why, struct krg_err *err)
{
	int r;

	if (!s->lab.ours)
		return lab_use_alive(&s->lab) ? 0 : krg_err_set(err, -EPIPE, "the lab has ended");
	(void)printf("#   the lab is made anew: %s%s", why, *why == '\0' ? "it has ended\n" : "");
	(void)lab_use_end(&s->lab, NULL);
	r = lab_use_begin(&s->lab, &s->opt, s->mode, err);
	s->in_lab = r == 0;
	s->done = 0;
	if (r == 0)
		probe_take(&s->lab, &s->warm);
	return r;
}

static int one_case(struct suite *s, unsigned which, struct krg_err *err)
{
	const struct kase *k = &s->list.cases[which];
	KRG_AUTO_FREE char *dir =
		krg_xasprintf("%s/%s.%s", s->opt.work, k->name, mode_name(s->mode));
	struct outcome o = {.name = k->name,
			    .mode = s->mode,
			    .instances = s->opt.instances,
			    .known = list_reason(&s->list, k->name, s->mode)};
	struct run_spec spec = {.kase = k,
				.opt = &s->opt,
				.lab = s->in_lab ? s->lab.name : NULL,
				.dir = dir,
				.mode = s->mode,
				.shell = s->opt.ltp != NULL};
	u64 placed = s->in_lab ? probe_placed(&s->lab) : 0;
	struct run run;
	bool dirty;
	int r;

	if (s->in_lab) {
		probe_take(&s->lab, &s->before);
		probe_raise(&s->lab, &s->before, &s->warm);
	}
	r = run_instances(&spec, &run, err);
	if (r < 0)
		return r;
	o.ms = run.ms;
	judge(s, &o, &run, dir);
	if (s->opt.ltp != NULL)
		judge_ltp(s, &o, &run, which);
	if (s->in_lab)
		check_lab(s, &o);
	if (s->in_lab && lab_use_alive(&s->lab))
		o.placed = probe_placed(&s->lab) - placed;
	dirty = s->in_lab && o.verdict == V_FAIL;
	known_or_not(s, &o);
	report_add(&s->report, &o);
	if (!s->opt.keep)
		remove_tree(dir);
	if (dirty) { /* what is left of it must not be the next one's */
		char text[700] = "";

		if (!lab_use_alive(&s->lab) || probe_left(&s->lab, &s->before, text, sizeof(text)))
			return restart_lab(s, text, err);
	}
	return 0;
}

/* ---- all of them ---- */

static void check_mode(struct suite *s)
{
	struct outcome o = {.name = "(memory)", .mode = s->mode, .verdict = V_FAIL};

	if (s->done > WARM_CASES &&
	    probe_memory_grew(&s->lab, &s->warm, MEMORY_ALL_KIB, o.reason, sizeof(o.reason)))
		report_add(&s->report, &o);
}

static int one_mode(struct suite *s, struct krg_err *err)
{
	int r = 0;

	s->done = 0;
	if (s->mode != MODE_PLAIN) {
		r = lab_use_begin(&s->lab, &s->opt, s->mode, err);
		s->in_lab = r == 0;
		if (r == 0)
			probe_take(&s->lab, &s->warm);
	}
	for (unsigned i = 0; r == 0 && i < s->list.ncases && !stop_wanted; i++) {
		if (!wanted(&s->opt, s->list.cases[i].name))
			continue;
		r = one_case(s, i, err);
		if (r == 0 && s->in_lab && s->done == WARM_CASES)
			probe_take(&s->lab, &s->warm);
	}
	if (s->in_lab) {
		if (r == 0)
			check_mode(s);
		if (lab_use_end(&s->lab, r == 0 ? err : NULL) < 0 && r == 0)
			r = -EIO;
		s->in_lab = false;
	}
	return r;
}

static int all(struct suite *s, struct krg_err *err)
{
	int r = 0;

	for (unsigned n = 0; r == 0 && n < s->opt.repeat; n++)
		for (s->mode = 0; r == 0 && s->mode < MODE_N; s->mode++)
			if ((s->opt.modes >> s->mode & 1) != 0 && !stop_wanted)
				r = one_mode(s, err);
	return r;
}

static void print_names(const struct suite *s)
{
	for (unsigned i = 0; i < s->list.ncases; i++)
		if (wanted(&s->opt, s->list.cases[i].name))
			(void)printf("%-28s %s\n", s->list.cases[i].name, s->list.cases[i].what);
}

static int read_lists(struct suite *s, struct krg_err *err)
{
	int r = list_read(&s->list, s->opt.list, err);

	if (r == 0 && s->opt.known != NULL)
		r = list_read_known(&s->list, s->opt.known, err);
	s->native = krg_xalloc((s->list.ncases + 1) * sizeof(*s->native));
	return r;
}

static int run_suite(struct suite *s)
{
	struct sigaction stop = {.sa_handler = on_stop};
	struct krg_err err = {0};
	int r, end;

	(void)sigaction(SIGINT, &stop, NULL);
	(void)sigaction(SIGTERM, &stop, NULL);
	(void)sigaction(SIGHUP, &stop, NULL);
	report_init(&s->report);
	r = work_dir(&s->opt, &err);
	if (r == 0)
		r = all(s, &err);
	if (s->opt.work != NULL && !s->opt.keep)
		remove_tree(s->opt.work);
	else if (s->opt.work != NULL)
		(void)printf("# kept: %s\n", s->opt.work);
	if (r < 0 && !stop_wanted)
		(void)fprintf(stderr, "krgltp: %s\n", err.text);
	end = report_end(&s->report, s->opt.json, &err);
	if (end < 0)
		(void)fprintf(stderr, "krgltp: %s\n", err.text);
	if (stop_wanted)
		return 130;
	return r < 0 || end != 0;
}

int main(int argc, char **argv)
{
	static struct suite s = {.opt = {.modes = 1u << MODE_PLAIN | 1u << MODE_ELSEWHERE,
					 .nodes = 3,
					 .limit_s = 30,
					 .repeat = 1}};
	struct krg_err err = {0};
	bool names = false;
	unsigned run = 0;
	int r;

	(void)setlocale(LC_ALL, "");
	r = options(&s.opt, argc, argv, &names);
	if (r != 0)
		return r == 1 ? 0 : r;
	defaults(&s.opt);
	if (s.opt.lab != NULL && (s.opt.modes >> MODE_KRG) == 3)
		return usage("--lab is of one mode: --mode krg or --mode elsewhere", "");
	if (read_lists(&s, &err) < 0) {
		(void)fprintf(stderr, "krgltp: %s\n", err.text);
		return 2;
	}
	for (unsigned i = 0; i < s.list.ncases; i++)
		run += wanted(&s.opt, s.list.cases[i].name);
	if (run == 0)
		return usage("no case is of that name", "");
	if (names) {
		print_names(&s);
		return 0;
	}
	return run_suite(&s);
}

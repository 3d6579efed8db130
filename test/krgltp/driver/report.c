/* report.c - a line per case and mode, the summary, the JSON file. */
#include "krgltp.h"

static const char *const verdict_names[V_N] = {"pass", "FAIL", "skip", "known", "FIXED", "native"};

void report_init(struct report *r)
{
	*r = (struct report){.results = json_array()};
}

static void comment(const char *text)
{
	while (*text != '\0') {
		size_t n = strcspn(text, "\n");

		(void)printf("#   %.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	}
}

static void print_line(const struct outcome *o)
{
	(void)printf("%-6s %-9s %-28s", verdict_names[o->verdict], mode_name(o->mode), o->name);
	if (o->verdict == V_NATIVE)
		(void)printf(" %s", how_name(o->native));
	else
		(void)printf(" %3u of %u", o->passed, o->instances);
	(void)printf("  %llu.%02llu s", (unsigned long long)o->ms / 1000,
		     (unsigned long long)o->ms % 1000 / 10);
	if (o->placed > 0)
		(void)printf("  %llu placed", (unsigned long long)o->placed);
	if (o->skipped > 0 && o->verdict != V_SKIP)
		(void)printf("  %u skipped", o->skipped);
	(void)printf("\n");
	if (o->verdict == V_KNOWN)
		(void)printf("#   known: %s\n", o->known);
	if (o->verdict == V_FIXED)
		(void)printf("#   passes now; known was: %s\n", o->known);
	comment(o->reason);
	(void)fflush(stdout);
}

static json_t *as_json(const struct outcome *o)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:I}", "case", o->name,
			      "mode", mode_name(o->mode), "result", verdict_names[o->verdict],
			      "instances", (int)o->instances, "passed", (int)o->passed, "skipped",
			      (int)o->skipped, "late", (int)o->late, "ms", (json_int_t)o->ms,
			      "placed", (json_int_t)o->placed);

	if (o->known != NULL)
		(void)json_object_set_new(j, "known", json_string(o->known));
	if (o->verdict == V_NATIVE)
		(void)json_object_set_new(j, "native", json_string(how_name(o->native)));
	if (o->reason[0] != '\0') {
		json_t *why = json_string(o->reason);

		/* a case can print anything */
		(void)json_object_set_new(j, "reason",
					  why != NULL ? why : json_string("(not text)"));
	}
	return j;
}

void report_add(struct report *r, const struct outcome *o)
{
	r->count[o->verdict]++;
	print_line(o);
	(void)json_array_append_new(r->results, as_json(o));
}

int report_end(struct report *r, const char *json_path, struct krg_err *err)
{
	json_t *root;
	int failed;

	(void)printf("%u passed, %u failed, %u skipped", r->count[V_PASS] + r->count[V_FIXED],
		     r->count[V_FAIL], r->count[V_SKIP]);
	if (r->count[V_KNOWN] > 0)
		(void)printf(", %u known", r->count[V_KNOWN]);
	if (r->count[V_FIXED] > 0)
		(void)printf(" (%u known ones pass now)", r->count[V_FIXED]);
	(void)printf("\n");
	root = json_pack("{s:i, s:i, s:i, s:i, s:i, s:o}", "passed",
			 (int)(r->count[V_PASS] + r->count[V_FIXED]), "failed",
			 (int)r->count[V_FAIL], "skipped", (int)r->count[V_SKIP], "known",
			 (int)r->count[V_KNOWN], "fixed", (int)r->count[V_FIXED], "results",
			 r->results);
	failed = json_path != NULL ? json_dump_file(root, json_path, JSON_INDENT(1)) : 0;
	json_decref(root);
	if (failed != 0)
		return krg_err_set(err, -EIO, "%s: cannot be written", json_path);
	return r->count[V_FAIL] > 0;
}

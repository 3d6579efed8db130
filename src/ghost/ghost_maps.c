/* ghost_maps.c - the areas of a process's memory, from /proc/PID/maps. */
#include "ghost_impl.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define TOP	   0x7ffffffff000ull
#define VSYSCALL   0xffffffffff600000ull
#define HOLE_FLOOR 0x10000000ull

void ghost_maps_fini(struct ghost_maps *m)
{
	for (unsigned i = 0; i < m->n; i++)
		free(m->area[i].path);
	free(m->area);
	*m = (struct ghost_maps){0};
}

static int file_area(pid_t pid, pid_t shown, struct ghost_area *a, const char *path,
		     struct krg_err *err)
{
	char link[96];
	struct stat st, named;

	(void)snprintf(link, sizeof(link), "/proc/%d/map_files/%llx-%llx", pid,
		       (unsigned long long)a->start, (unsigned long long)a->end);
	if (stat(link, &st) < 0)
		return krg_err_set(err, -errno, "pid %d: file of its memory at %llx", shown,
				   (unsigned long long)a->start);
	if (!S_ISREG(st.st_mode))
		return krg_err_set(err, -EOPNOTSUPP, "pid %d has a device in its memory: %s", shown,
				   path);
	if (stat(path, &named) < 0 || named.st_ino != st.st_ino || named.st_dev != st.st_dev)
		return krg_err_set(err, -EOPNOTSUPP,
				   "pid %d has a file in its memory that is gone: %s", shown, path);
	a->ino = st.st_ino;
	a->size = (u64)st.st_size;
	a->mtime_ns = (u64)st.st_mtim.tv_sec * 1000000000ull + (u64)st.st_mtim.tv_nsec;
	return 0;
}

static const struct {
	const char *name;
	enum ghost_area_kind kind;
} special[] = {
	{"[vdso]", GHOST_VDSO}, {"[vvar]", GHOST_VVAR}, {"[vvar_vclock]", GHOST_VVAR_VCLOCK}};

static int kind_of(pid_t pid, pid_t shown, const char *perm, const char *path, struct ghost_area *a,
		   struct krg_err *err)
{
	a->kind = GHOST_ANON;
	for (unsigned i = 0; i < KRG_NELEM(special); i++)
		if (strcmp(path, special[i].name) == 0) {
			a->kind = special[i].kind;
			return 0;
		}
	if (perm[3] == 's' && (perm[1] == 'w' || path[0] != '/'))
		return krg_err_set(err, -EOPNOTSUPP, "pid %d shares writable memory: %s", shown,
				   path);
	if (path[0] == '/') {
		a->kind = perm[3] == 's' ? GHOST_SHARED_FILE : GHOST_FILE;
		return file_area(pid, shown, a, path, err);
	}
	a->down = strcmp(path, "[stack]") == 0;
	if (path[0] == '\0' || a->down || strcmp(path, "[heap]") == 0 ||
	    strncmp(path, "[anon:", 6) == 0)
		return 0;
	return krg_err_set(err, -EOPNOTSUPP, "pid %d has memory of a kind that does not move: %s",
			   shown, path);
}

static int line_read(pid_t pid, pid_t shown, char *line, bool any, struct ghost_maps *m,
		     struct krg_err *err)
{
	unsigned long long start, end, offset, ino;
	unsigned major, minor;
	char perm[5];
	struct ghost_area a = {0};
	int at = 0, r;

	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &start, &end, perm, &offset, &major,
		   &minor, &ino, &at) < 7 ||
	    at == 0)
		return krg_err_set(err, -EPROTO, "/proc/%d/maps: '%s'", pid, line);
	if (start >= VSYSCALL)
		return 0;
	if (m->n == GHOST_AREAS_MAX)
		return krg_err_set(err, -EOPNOTSUPP, "pid %d has more than %u areas of memory",
				   shown, GHOST_AREAS_MAX);
	a = (struct ghost_area){.start = start, .end = end, .offset = offset};
	a.prot = (u8)((perm[0] == 'r' ? PROT_READ : 0) | (perm[1] == 'w' ? PROT_WRITE : 0) |
		      (perm[2] == 'x' ? PROT_EXEC : 0));
	r = kind_of(pid, shown, perm, line + at, &a, any ? NULL : err);
	if (r < 0 && !any)
		return r;
	a.path = krg_xstrdup(a.kind == GHOST_FILE || a.kind == GHOST_SHARED_FILE ? line + at : "");
	/* one more for a table that grows by doubling */
	if ((m->n & (m->n - 1)) == 0)
		m->area = krg_xrealloc(m->area, KRG_MAX(2 * m->n, 1u) * sizeof(*m->area));
	m->area[m->n++] = a;
	return 0;
}

int ghost_maps_read(pid_t pid, pid_t shown, bool any, struct ghost_maps *ret, struct krg_err *err)
{
	KRG_AUTO_FILE FILE *f = NULL;
	KRG_AUTO_FREE char *line = NULL;
	GHOST_AUTO_MAPS struct ghost_maps m = {0};
	char path[64];
	size_t room = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	if (f == NULL)
		return krg_err_set(err, -errno, "open %s", path);
	while (getline(&line, &room, f) >= 0) {
		int r = line_read(pid, shown, line, any, &m, err);

		if (r < 0)
			return r;
	}
	*ret = m;
	m = (struct ghost_maps){0};
	return 0;
}

/* From the top down, as the kernel does: the next area of either one that is in the way. */
u64 ghost_maps_hole(const struct ghost_maps *a, const struct ghost_maps *b, u64 size)
{
	const struct ghost_maps *both[] = {a, b};
	u64 end = TOP - (1u << 20);

	while (end > HOLE_FLOOR + size) {
		u64 below = 0;

		for (unsigned k = 0; k < KRG_NELEM(both); k++)
			for (unsigned i = 0; both[k] != NULL && i < both[k]->n; i++) {
				const struct ghost_area *x = &both[k]->area[i];

				if (x->start < end && x->end > end - size &&
				    (below == 0 || x->start < below))
					below = x->start;
			}
		if (below == 0)
			return end - size;
		end = below;
	}
	return 0;
}

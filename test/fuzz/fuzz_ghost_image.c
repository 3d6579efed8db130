// part: ghost
/* fuzz_ghost_image.c - the records of a ghost, as a node or a file may give them.
 *
 * What is accepted must be usable: all that ghost_build.c takes from it without a look is looked at here.
 */
#include "ghost_image.h"
#include <linux/prctl.h>
#include <signal.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct ghost_image *im;
	struct krg_err err = {0};
	struct prctl_mm_map mm;
	u64 above = 0;

	if (ghost_image_read((struct krg_slice){data, size}, &im, &err) < 0) {
		ASSERT(err.text[0] != '\0');
		return 0;
	}
	ASSERT(im->head.mm.len == sizeof(mm) && ghost_image_pid(im) > 0 && im->nthreads > 0);
	for (unsigned i = 0; i < im->nareas; i++) {
		const struct rec_ghost_area *a = &im->area[i];

		ASSERT(a->start >= above && a->end > a->start && a->kind < GHOST_AREA_KINDS);
		ASSERT((a->path.len > 0) ==
		       (a->kind == GHOST_FILE || a->kind == GHOST_SHARED_FILE));
		above = a->end;
	}
	for (unsigned i = 0; i < im->nthreads; i++)
		ASSERT(im->thread[i].regs.len == sizeof(struct user_regs_struct) &&
		       im->thread[i].xstate.len >= 576 && im->thread[i].tid > 0);
	for (unsigned i = 0; i < im->nsignals; i++)
		ASSERT(im->signal[i].info.len == sizeof(siginfo_t));
	ghost_image_free(im);
	return 0;
}

/* The rules of Kerrighed capabilities: at birth, at fork, and what may be changed by whom. */
#include "epm.h"
#include "tap.h"

#define BIT(name) (1u << EPM_CAP_##name)
#define EXEC	  BIT(DISTANT_EXEC)
#define FORK	  BIT(DISTANT_FORK)

static bool is(const struct epm_caps *c, u32 eff, u32 prm, u32 ie, u32 ip)
{
	bool same = c->set[EPM_CAPS_EFFECTIVE] == eff && c->set[EPM_CAPS_PERMITTED] == prm &&
		    c->set[EPM_CAPS_INH_EFFECTIVE] == ie && c->set[EPM_CAPS_INH_PERMITTED] == ip;

	if (!same)
		printf("# %#x %#x %#x %#x\n", c->set[0], c->set[1], c->set[2], c->set[3]);
	return same;
}

static void birth(void)
{
	struct epm_caps c = epm_caps_at_birth(EPM_CAPS_DEFAULT), child;
	u32 def = BIT(CHANGE_KERRIGHED_CAP) | BIT(CAN_MIGRATE) | BIT(CHECKPOINTABLE) | EXEC;

	tap_ok(is(&c, def, def | FORK, def, def | FORK), "DISTANT_FORK is permitted, no more");
	child = epm_caps_fork(&c);
	tap_ok(is(&child, def, def | FORK, def, def | FORK), "a child has the same");
	c = epm_caps_at_birth(def & ~EXEC);
	tap_ok(is(&c, def & ~EXEC, def | FORK, def & ~EXEC, def | FORK), "--caps -DISTANT_EXEC");
	c = epm_caps_at_birth(BIT(DEBUG));
	tap_ok(is(&c, BIT(DEBUG), def | FORK | BIT(DEBUG), BIT(DEBUG), def | FORK | BIT(DEBUG)),
	       "what is effective is permitted");
}

static void fork_rules(void)
{
	struct epm_caps p = {.set = {[EPM_CAPS_EFFECTIVE] = 1,
				     [EPM_CAPS_PERMITTED] = 3,
				     [EPM_CAPS_INH_EFFECTIVE] = 0x34,
				     [EPM_CAPS_INH_PERMITTED] = 0x16}};
	struct epm_caps child = epm_caps_fork(&p), grandchild = epm_caps_fork(&child);

	tap_ok(is(&child, 0x14, 0x16, 0x34, 0x16), "P'(prm) = P(ip), P'(eff) = P(ie) & P'(prm)");
	tap_ok(memcmp(&child, &grandchild, sizeof(child)) == 0, "once more changes nothing");
}

static int apply(const struct epm_caps *old, bool root, unsigned set, u32 drop, u32 add,
		 struct epm_caps *ret)
{
	struct epm_caps_change c = {0};
	struct krg_err err = {0};

	c.drop[set] = drop;
	c.add[set] = add;
	return epm_caps_apply(old, &c, root, ret, &err);
}

static void changes(void)
{
	struct epm_caps old = epm_caps_at_birth(EPM_CAPS_DEFAULT), c;

	memset(&c, 0xaa, sizeof(c));
	tap_eq(apply(&old, false, EPM_CAPS_EFFECTIVE, 0, BIT(DEBUG), &c), -EINVAL,
	       "effective beyond permitted");
	tap_eq(apply(&old, true, EPM_CAPS_EFFECTIVE, 0, BIT(DEBUG), &c), -EINVAL, "by root, too");
	tap_eq(apply(&old, true, EPM_CAPS_INH_EFFECTIVE, 0, BIT(DEBUG), &c), -EINVAL,
	       "and what is inherited");
	tap_eq(apply(&old, false, EPM_CAPS_PERMITTED, EXEC, 0, &c), -EINVAL,
	       "permitted below effective");
	tap_eq(apply(&old, true, EPM_CAPS_EFFECTIVE, 0, 1u << 20, &c), -EINVAL, "no such bit");
	tap_eq(apply(&old, false, EPM_CAPS_PERMITTED, 0, BIT(DEBUG), &c), -EPERM,
	       "only root adds to permitted");
	tap_eq(apply(&old, false, EPM_CAPS_INH_PERMITTED, 0, BIT(DEBUG), &c), -EPERM,
	       "and to what is inherited");
	tap_eq(c.set[0], 0xaaaaaaaa, "what is refused changes nothing");
	tap_ok(apply(&old, true, EPM_CAPS_PERMITTED, 0, BIT(DEBUG), &c) == 0 &&
		       c.set[EPM_CAPS_PERMITTED] == (old.set[EPM_CAPS_PERMITTED] | BIT(DEBUG)),
	       "root does");
	tap_ok(apply(&old, false, EPM_CAPS_EFFECTIVE, 0, FORK, &c) == 0 &&
		       c.set[EPM_CAPS_EFFECTIVE] == (EPM_CAPS_DEFAULT | FORK),
	       "what is permitted can be made effective");
	tap_ok(apply(&old, false, EPM_CAPS_EFFECTIVE, ~0u, EXEC, &c) == 0 &&
		       c.set[EPM_CAPS_EFFECTIVE] == EXEC &&
		       c.set[EPM_CAPS_INH_EFFECTIVE] == EPM_CAPS_DEFAULT,
	       "a set is replaced, the others stay");
	tap_ok(apply(&c, false, EPM_CAPS_EFFECTIVE, 0, 1, &old) == 0, "and taken back");
}

int main(void)
{
	birth();
	fork_rules();
	changes();
	return tap_done();
}

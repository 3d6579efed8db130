krg_test(NAME unit_ghost PART ghost SOURCES ghost.c LABELS unit)

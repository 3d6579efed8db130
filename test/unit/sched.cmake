krg_test(NAME unit_sched_choose PART sched SOURCES ${CMAKE_SOURCE_DIR}/test/unit/sched_choose.c LABELS unit)

krg_test(NAME unit_krgd_door PART door SOURCES ${CMAKE_SOURCE_DIR}/test/unit/krgd/test_door.c
	LABELS unit TIMEOUT 60)
krg_test(NAME unit_krgd_run_check PART krgd
	SOURCES ${CMAKE_SOURCE_DIR}/test/unit/krgd/test_run_check.c LABELS unit)

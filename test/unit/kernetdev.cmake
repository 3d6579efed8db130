krg_test(NAME unit_kernetdev_shake PART kernetdev LABELS unit
	SOURCES ${CMAKE_SOURCE_DIR}/test/unit/kernetdev_shake.c)

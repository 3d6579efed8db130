krg_test(NAME unit_epm_proc PART epm SOURCES ${CMAKE_SOURCE_DIR}/test/unit/epm_proc.c LABELS unit)
krg_test(NAME unit_epm_caps PART epm SOURCES ${CMAKE_SOURCE_DIR}/test/unit/epm_caps.c LABELS unit)
krg_test(NAME unit_epm_scan PART epm SOURCES ${CMAKE_SOURCE_DIR}/test/unit/epm_scan.c ${CMAKE_SOURCE_DIR}/src/epm/scan.c
	LABELS unit)

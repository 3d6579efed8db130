krg_script_test(NAME bug_former_life PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/bug/former_life.sh
	LABELS live TIMEOUT 120)
krg_script_test(NAME bug_two_descriptions PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/bug/two_descriptions.sh
	LABELS live TIMEOUT 120)

krg_script_test(NAME live_lab_updown PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/lab_updown.sh
	LABELS live short TIMEOUT 120)
krg_script_test(NAME live_lab_crash PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/lab_crash.sh
	LABELS live TIMEOUT 240)
krg_script_test(NAME live_lab_run PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/lab_run.sh
	LABELS live short TIMEOUT 120)
krg_script_test(NAME live_tools PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/tools.sh
	LABELS live short TIMEOUT 200)

# Programs that check themselves under krg run; epm.sh runs them in a lab.
if(TARGET krg_krgd)
	foreach(name identity fail wait signal pids storm pty standin kin threads victim lazy)
		krg_resolve(source epm_${name}.c)
		add_executable(live_epm_${name} ${source})
		target_compile_options(live_epm_${name} PRIVATE "SHELL:-iquote ${CMAKE_SOURCE_DIR}/test"
			"SHELL:-iquote ${CMAKE_SOURCE_DIR}/src/epm")
		target_link_libraries(live_epm_${name} PRIVATE krg_base)
	endforeach()
endif()
krg_script_test(NAME live_epm PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm.sh LABELS live TIMEOUT 300)
krg_script_test(NAME live_epm_deaths PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_deaths.sh
	LABELS live TIMEOUT 240)
krg_script_test(NAME live_epm_restart PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_restart.sh
	LABELS live TIMEOUT 500)
krg_script_test(NAME live_epm_faults PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_faults.sh
	LABELS live TIMEOUT 600)
krg_script_test(NAME live_epm_storm PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_storm.sh
	LABELS live TIMEOUT 200)
krg_script_test(NAME live_programs PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/programs.sh
	LABELS live TIMEOUT 200)
krg_script_test(NAME live_epm_chroot PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_chroot.sh
	LABELS live TIMEOUT 240)
krg_script_test(NAME live_epm_tty PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_tty.sh
	LABELS live TIMEOUT 400)
krg_script_test(NAME live_epm_caps PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_caps.sh
	LABELS live short TIMEOUT 240)
if(TARGET krg_krgd)
	krg_resolve(source bad_input.c)
	add_executable(live_bad_input ${source})
	target_compile_options(live_bad_input PRIVATE "SHELL:-iquote ${CMAKE_SOURCE_DIR}/src/epm")
	target_link_libraries(live_bad_input PRIVATE krg_comm)
endif()
krg_script_test(NAME live_bad_input PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/bad_input.sh
	LABELS live TIMEOUT 300)
krg_script_test(NAME live_epm_migrate PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_migrate.sh
	LABELS live TIMEOUT 300)
krg_script_test(NAME live_epm_migrate_on PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_migrate_on.sh
	LABELS live TIMEOUT 240)
krg_script_test(NAME live_epm_lazy PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_lazy.sh
	LABELS live TIMEOUT 240)
# Ten minutes of it: make check-long.
krg_script_test(NAME long_epm_storm PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/live/epm_storm_long.sh
	LABELS long TIMEOUT 1200)

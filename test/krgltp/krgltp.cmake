# krgltp, the driver; the cases' programs go to bin/krgltp-cases, beside it.  They see nothing of ours.
if(TARGET krg_krgd AND TARGET krg_lab)
	set(dir ${CMAKE_SOURCE_DIR}/test/krgltp)
	add_executable(krgltp ${dir}/driver/main.c ${dir}/driver/list.c ${dir}/driver/run.c
		${dir}/driver/lab.c ${dir}/driver/probe.c ${dir}/driver/ltp.c ${dir}/driver/report.c)
	target_compile_options(krgltp PRIVATE "SHELL:-iquote ${dir}/driver")
	target_link_libraries(krgltp PRIVATE krg_base ${JANSSON_LIB})

	add_library(krgltp_case STATIC ${dir}/cases/case.c)
	target_compile_options(krgltp_case PUBLIC "SHELL:-iquote ${dir}/cases" ${KRG_NO_SANITIZE})
	target_link_options(krgltp_case PUBLIC ${KRG_NO_SANITIZE})
	target_link_libraries(krgltp_case PUBLIC Threads::Threads)
	foreach(name exec execerr ident wait signal sigcall group file pipe tty other)
		add_executable(krgltp_${name} ${dir}/cases/${name}.c)
		target_link_libraries(krgltp_${name} PRIVATE krgltp_case)
		set_target_properties(krgltp_${name} PROPERTIES OUTPUT_NAME ${name}
			RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin/krgltp-cases)
	endforeach()
	configure_file(${dir}/cases/list ${CMAKE_BINARY_DIR}/bin/krgltp-cases/list COPYONLY)
	configure_file(${dir}/known ${CMAKE_BINARY_DIR}/bin/krgltp-cases/known COPYONLY)
	krg_script_test(NAME unit_krgltp PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/krgltp/unit_krgltp.sh
		LABELS unit TIMEOUT 120)
	krg_script_test(NAME live_krgltp PART krgd SCRIPT ${CMAKE_SOURCE_DIR}/test/krgltp/live_krgltp.sh
		LABELS live TIMEOUT 600)
endif()

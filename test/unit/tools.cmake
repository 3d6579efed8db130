# krg run against a door of the test's own: the records' headers alone are seen of the upper parts.
if(TARGET krg)
	krg_test(NAME unit_tools_run PART door SOURCES ${CMAKE_SOURCE_DIR}/test/unit/tools/test_krg_run.c
		LABELS unit TIMEOUT 60)
endif()
if(TARGET unit_tools_run)
	foreach(part epm stream comm)
		target_compile_options(unit_tools_run PRIVATE "SHELL:-iquote ${CMAKE_SOURCE_DIR}/src/${part}")
	endforeach()
	add_dependencies(unit_tools_run krg)
endif()

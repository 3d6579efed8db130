foreach(name call door link view)
	krg_test(NAME unit_comm_${name} PART comm LABELS unit
		SOURCES ${CMAKE_SOURCE_DIR}/test/unit/comm_${name}.c)
endforeach()

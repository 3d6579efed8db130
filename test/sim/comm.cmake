krg_test(NAME sim_comm PART comm LABELS sim TIMEOUT 300
	SOURCES ${CMAKE_SOURCE_DIR}/test/sim/comm_sim.c)

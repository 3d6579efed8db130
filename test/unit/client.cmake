if(TARGET krg_client)
	krg_test(NAME unit_client PART client SOURCES client.c LABELS unit LIBS krg_base)
endif()

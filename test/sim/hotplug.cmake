krg_test(NAME sim_hotplug PART hotplug SOURCES hotplug_sim.c LABELS sim TIMEOUT 240)
# The same with a rule of the protocol broken, one after the other: each must be noticed.
if(NOT KRG_SANITIZE)
	krg_test(NAME sim_hotplug_bugs PART hotplug
		SOURCES hotplug_sim.c src/hotplug/view_sm.c src/hotplug/view_lead.c
		LABELS sim TIMEOUT 300 ARGS 3000)
endif()
if(TARGET sim_hotplug_bugs)
	target_compile_definitions(sim_hotplug_bugs PRIVATE VSM_BUGS)
endif()

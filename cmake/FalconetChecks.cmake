# Checks of the sources that run with every build that changes one of them (a fifth of a second).
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  file(GLOB_RECURSE falconet_checked CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/falconet/*.h ${PROJECT_SOURCE_DIR}/falconet/*.cpp
    ${PROJECT_SOURCE_DIR}/falconet/*.cu ${PROJECT_SOURCE_DIR}/cli/*.h ${PROJECT_SOURCE_DIR}/cli/*.cpp)
  add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/layers.checked
    COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/tools/check_layers.py ${PROJECT_SOURCE_DIR} --stamp ${PROJECT_BINARY_DIR}/layers.checked
    DEPENDS ${falconet_checked} ${PROJECT_SOURCE_DIR}/tools/check_layers.py
    COMMENT "Checking that no include runs upward" VERBATIM)
  add_custom_target(falconet_layers ALL DEPENDS ${PROJECT_BINARY_DIR}/layers.checked)
endif()

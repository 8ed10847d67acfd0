# `cmake --install`: the library, its public headers, the package config and the program.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(falconet_package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/falconet)

install(TARGETS falconet EXPORT falconet-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT falconet-targets NAMESPACE falconet:: DESTINATION ${falconet_package_folder})
if(TARGET falconet_program)
  install(PROGRAMS $<TARGET_FILE:falconet_program> DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/falconet-config.cmake.in ${PROJECT_BINARY_DIR}/falconet-config.cmake
  INSTALL_DESTINATION ${falconet_package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/falconet-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/falconet-config.cmake ${PROJECT_BINARY_DIR}/falconet-config-version.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FalconetDependencies.cmake DESTINATION ${falconet_package_folder})

# The public API is exactly what falconet/falconet.h reaches, found when it is installed.
install(CODE "set(falconet_source \"${PROJECT_SOURCE_DIR}\")
set(falconet_include \"${CMAKE_INSTALL_INCLUDEDIR}\")")
install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/install_headers.cmake)

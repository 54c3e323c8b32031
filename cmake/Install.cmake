# cmake --install: program (src/cli), library with its CMake package and pkg-config file, public headers, documentation, man page, job scripts, and a module file that names the prefix.
include(GNUInstallDirs)
set_target_properties(polylepis libpolylepis PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON) # CUDA and NCCL often live outside the loader's folders
include(CMakePackageConfigHelpers)
set(PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/polylepis)
install(TARGETS libpolylepis EXPORT polylepis LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT polylepis NAMESPACE polylepis:: FILE polylepisTargets.cmake DESTINATION ${PACKAGE_DIR})
configure_package_config_file(cmake/polylepisConfig.cmake.in generated/polylepisConfig.cmake INSTALL_DESTINATION ${PACKAGE_DIR}
                              NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(generated/polylepisConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/generated/polylepisConfig.cmake ${PROJECT_BINARY_DIR}/generated/polylepisConfigVersion.cmake
        DESTINATION ${PACKAGE_DIR})
file(RELATIVE_PATH UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /) # the prefix may differ at install time
configure_file(cmake/polylepis.pc.in generated/polylepis.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/generated/polylepis.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(DIRECTORY include/polylepis DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.h)
install(FILES docs/man/polylepis.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES README.md CONTRIBUTING.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} PATTERN man EXCLUDE)
install(DIRECTORY launch/slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/polylepis FILES_MATCHING PATTERN *.sbatch)
# Written at install time, because --prefix may differ from the prefix of the configuration.
install(CODE "
  set(PREFIX \"\${CMAKE_INSTALL_PREFIX}\")
  set(VERSION ${PROJECT_VERSION})
  configure_file(${PROJECT_SOURCE_DIR}/launch/polylepis.module
                 \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/modulefiles/polylepis/${PROJECT_VERSION}\" @ONLY)
  message(STATUS \"Module file: \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/modulefiles/polylepis/${PROJECT_VERSION}\")")

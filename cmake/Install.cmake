# cmake --install: program (src/cli), library with its CMake package and pkg-config file, public headers, documentation, manual pages,
# completion, job scripts, the demonstration model, and a module file that names the prefix.  cpack: a Debian package of the same.
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
install(FILES docs/man/polylepis.3 DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
install(FILES docs/man/polylepis-model.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
install(FILES README.md CHANGELOG.md SECURITY.md CONTRIBUTING.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY launch/slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/polylepis FILES_MATCHING PATTERN *.sbatch)
install(DIRECTORY models DESTINATION ${CMAKE_INSTALL_DATADIR}/polylepis) # the demonstration model

# Completion, and the options in polylepis(1): the program writes them from its own tables, so that they cannot differ from it.
set(WRITTEN ${PROJECT_BINARY_DIR}/generated/written)
file(MAKE_DIRECTORY ${WRITTEN})
add_custom_command(OUTPUT ${WRITTEN}/polylepis ${WRITTEN}/_polylepis ${WRITTEN}/options.roff ${WRITTEN}/polylepis.1
                   COMMAND polylepis --describe bash > ${WRITTEN}/polylepis
                   COMMAND polylepis --describe zsh > ${WRITTEN}/_polylepis
                   COMMAND polylepis --describe man > ${WRITTEN}/options.roff
                   COMMAND sed "/@OPTIONS@/r ${WRITTEN}/options.roff" docs/man/polylepis.1 > ${WRITTEN}/polylepis.1
                   WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} DEPENDS polylepis ${PROJECT_SOURCE_DIR}/docs/man/polylepis.1 VERBATIM)
add_custom_target(written ALL DEPENDS ${WRITTEN}/polylepis.1)
install(FILES ${WRITTEN}/polylepis DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
if(EXISTS /etc/debian_version)
  install(FILES ${WRITTEN}/_polylepis DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
else()
  install(FILES ${WRITTEN}/_polylepis DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
endif()
install(FILES ${WRITTEN}/polylepis.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

install(CODE "
  set(PREFIX \"\${CMAKE_INSTALL_PREFIX}\")
  set(DOCDIR \"${CMAKE_INSTALL_DOCDIR}\")
  set(DATADIR \"${CMAKE_INSTALL_DATADIR}\")
  set(LIBDIR \"${CMAKE_INSTALL_LIBDIR}\")
  set(MODULEFILE \"${CMAKE_INSTALL_DATADIR}/modulefiles/polylepis/${PROJECT_VERSION}\")
  set(SOURCE \"${PROJECT_SOURCE_DIR}\")
  set(VERSION ${PROJECT_VERSION})")
install(SCRIPT cmake/InstallDocs.cmake)

# cpack: one Debian package of all that, for /usr.  With CUDA it builds where CUDA and NCCL come as packages.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME polylepis)
set(CPACK_PACKAGE_CONTACT "the polylepis maintainers <maintainers@polylepis.invalid>")
set(CPACK_PACKAGE_DESCRIPTION "Inference of Mamba and Mamba-2 language models as jobs: one MPI rank per GPU or share of a CPU, each of
 which owns a range of heads. The program, its C library, and a small model to try both.")
set(CPACK_SET_DESTDIR ON) # or the module file would name the place where the package is put together
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS openmpi-bin) # a program that runs alone starts its daemon, too
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libopenmpi-dev, pkg-config, cmake") # to build with the library
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)

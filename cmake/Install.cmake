# cmake --install: program (src/cli), public headers, documentation, man page, job scripts, and a module file that names the prefix.
include(GNUInstallDirs)
set_target_properties(polylepis PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON) # CUDA and NCCL often live outside the loader's folders
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

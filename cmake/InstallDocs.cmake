# Part of `cmake --install`, which sets PREFIX, DOCDIR, DATADIR, LIBDIR, MODULEFILE, SOURCE and VERSION: what depends on where things lie.
cmake_path(ABSOLUTE_PATH PREFIX NORMALIZE) # may be relative to where cmake was called
string(REGEX REPLACE "(.)/$" "\\1" PREFIX "${PREFIX}")

# Documentation: links into the source tree become plain text, and the job scripts are in share/.
set(root "$ENV{DESTDIR}${PREFIX}")
file(RELATIVE_PATH scripts "/${DOCDIR}" "/${DATADIR}/polylepis/slurm")
file(GLOB pages "${root}/${DOCDIR}/*.md" "${root}/${DOCDIR}/docs/*.md")
foreach(page IN LISTS pages)
  file(READ "${page}" text)
  string(REGEX REPLACE "\\]\\(launch/slurm/\\)" "](${scripts}/)" text "${text}")
  string(REGEX REPLACE "\\]\\(\\.\\./launch/slurm/\\)" "](../${scripts}/)" text "${text}")
  string(REGEX REPLACE "\\[([^]\n]*)\\]\\((\\.\\./)?(src|include|launch|tests|tools)/[^)]*\\)" "\\1" text "${text}")
  file(WRITE "${page}" "${text}")
endforeach()

# The module file names the prefix, which may differ from that of the configuration, as a word of Tcl.
string(REGEX REPLACE "([][\\$\"])" "\\\\\\1" QUOTED "${PREFIX}")
configure_file("${SOURCE}/launch/polylepis.module" "${root}/${MODULEFILE}" @ONLY)
message(STATUS "Module file: ${PREFIX}/${MODULEFILE}")

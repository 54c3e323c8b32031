# What makes a mistake of ours harder to use, for all of our C code and all that is linked from it; tests/cli/hardening.sh looks at the result.
include(CheckPIESupported)
check_pie_supported()
add_compile_options($<$<COMPILE_LANGUAGE:C>:-fstack-protector-strong> $<$<COMPILE_LANGUAGE:C>:-fstack-clash-protection>
                    $<$<COMPILE_LANGUAGE:C>:-Wformat> $<$<COMPILE_LANGUAGE:C>:-Werror=format-security>
                    $<$<COMPILE_LANGUAGE:C>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>
                    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>) # the same program wherever it is built
add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack)
set(fortify 2)
if((CMAKE_C_COMPILER_ID STREQUAL GNU AND CMAKE_C_COMPILER_VERSION VERSION_GREATER_EQUAL 12)
   OR (CMAKE_C_COMPILER_ID STREQUAL Clang AND CMAKE_C_COMPILER_VERSION VERSION_GREATER_EQUAL 12))
  set(fortify 3)
endif()
if(NOT PLP_SANITIZE) # sanitizers see more, and the two do not go together
  add_compile_options($<$<COMPILE_LANGUAGE:C>:-U_FORTIFY_SOURCE> $<$<AND:$<COMPILE_LANGUAGE:C>,$<NOT:$<CONFIG:Debug>>>:-D_FORTIFY_SOURCE=${fortify}>)
endif()

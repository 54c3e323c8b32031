# How the sources must look, whatever they do.
function(plp_add_style_test name)
  add_test(NAME style.${name} COMMAND ${ARGN})
  set_tests_properties(style.${name} PROPERTIES LABELS style SKIP_RETURN_CODE 77 TIMEOUT 120)
endfunction()
plp_add_style_test(clang-format ${CMAKE_CURRENT_SOURCE_DIR}/clang_format.sh ${PROJECT_SOURCE_DIR})
plp_add_style_test(includes ${CMAKE_CURRENT_SOURCE_DIR}/includes.sh ${PROJECT_SOURCE_DIR})
plp_add_style_test(includes.self-test ${CMAKE_CURRENT_SOURCE_DIR}/includes.sh --self-test)
plp_add_style_test(links ${CMAKE_CURRENT_SOURCE_DIR}/links.sh ${PROJECT_SOURCE_DIR})

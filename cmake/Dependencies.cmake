# Everything the project uses, from the distribution's packages.  Nothing is vendored.
find_package(PkgConfig REQUIRED)
find_package(MPI 3.1 REQUIRED COMPONENTS C)
find_package(HDF5 1.10 REQUIRED COMPONENTS C)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
pkg_check_modules(JSONC REQUIRED IMPORTED_TARGET json-c)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8>=10.40) # \p{White_Space}
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

add_library(plp_hdf5 INTERFACE) # FindHDF5 gives variables
target_include_directories(plp_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(plp_hdf5 INTERFACE ${HDF5_C_LIBRARIES})
target_compile_definitions(plp_hdf5 INTERFACE ${HDF5_C_DEFINITIONS})

if(PLP_CUDA)
  find_package(CUDAToolkit 12.4 REQUIRED)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
    message(FATAL_ERROR "NCCL not found: install libnccl-dev, or configure with -DPLP_CUDA=OFF")
  endif()
  add_library(plp_nccl INTERFACE)
  target_include_directories(plp_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
  target_link_libraries(plp_nccl INTERFACE ${NCCL_LIBRARY})
endif()

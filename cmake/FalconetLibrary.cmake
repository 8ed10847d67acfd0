# The library. Every .cpp below falconet/ belongs to it; a file that includes device/cpu/simd.h is a SIMD source: it is compiled
# once as it is (its host half) and once per instruction set with FALCONET_ISA defined (its kernels).
file(GLOB_RECURSE falconet_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/falconet/*.cpp)
list(FILTER falconet_sources EXCLUDE REGEX "/cuda/")
if(FALCONET_WITH_CUDA)
  list(FILTER falconet_sources EXCLUDE REGEX "/no_cuda\\.cpp$")   # the stubs
endif()

set(falconet_isas plain)
set(falconet_flags_plain "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND falconet_isas avx2 avx512)
  set(falconet_flags_avx2 -march=haswell -maes -mpclmul -mtune=generic)
  set(falconet_flags_avx512 -march=skylake-avx512 -mtune=generic)
endif()

set(falconet_simd_sources "")
foreach(source IN LISTS falconet_sources)
  if(source MATCHES "/cpu/")
    file(STRINGS ${source} uses_simd REGEX "#include \"falconet/device/cpu/simd.h\"")
    if(uses_simd)
      list(APPEND falconet_simd_sources ${source})
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    endif()
  endif()
endforeach()

# What reads settings and files, traces and compiles networks, draws, calls vendor libraries, or stands for comparison: small code, for none of it
# is where time goes.
set(falconet_cold ${falconet_sources})
list(FILTER falconet_cold INCLUDE REGEX
     "/(graph|nn|io|plan/passes)/|/base/(settings|svg|nearest|file)|/plan/(plan|compile|footprint|step|tune)\\.|/ops/[a-z_]+/(problem|op)\\.|/ops/(alone|problem_text|problem_list|gradients)\\.|/data/(mnist|cifar|image_folder)\\.|/train/(report|run_folder|model_file|trainer)|/cpu/(onednn|openblas|naive|scatter)\\.")
set_source_files_properties(${falconet_cold} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-Os>")
set_source_files_properties(${PROJECT_SOURCE_DIR}/falconet/ops/pool/cpu/unfold.cpp PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O3;-fno-trapping-math>")   # its loops are over channels

add_library(falconet STATIC ${falconet_sources})
add_library(falconet::falconet ALIAS falconet)
target_include_directories(falconet PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
target_compile_features(falconet PUBLIC cxx_std_20)
target_link_libraries(falconet PUBLIC Threads::Threads PRIVATE ${CMAKE_DL_LIBS})

add_library(falconet_options INTERFACE)
target_compile_options(falconet_options INTERFACE -Wall -Wextra -ffunction-sections -fdata-sections -fno-math-errno)
if(FALCONET_SANITIZE)
  # -O1: with the optimisation of a release a single SIMD source takes minutes under a sanitizer
  target_compile_options(falconet_options INTERFACE -fsanitize=${FALCONET_SANITIZE} -fno-omit-frame-pointer -g1 -O1)
  target_link_options(falconet PUBLIC -fsanitize=${FALCONET_SANITIZE})
endif()
target_link_libraries(falconet PRIVATE $<BUILD_INTERFACE:falconet_options>)

# Kernels call nothing that throws, so nothing is unwound through them: without tables for it the program is a quarter of a megabyte smaller.
set(falconet_simd_optimisation $<$<NOT:$<CONFIG:Debug>>:-O3> $<$<NOT:$<CONFIG:Debug>>:-fno-asynchronous-unwind-tables> $<$<NOT:$<CONFIG:Debug>>:-fno-unwind-tables>)
if(FALCONET_SANITIZE)
  set(falconet_simd_optimisation "")
endif()
foreach(isa IN LISTS falconet_isas)
  if(falconet_simd_sources)
    add_library(falconet_${isa} OBJECT ${falconet_simd_sources})
    target_include_directories(falconet_${isa} PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(falconet_${isa} PRIVATE FALCONET_ISA=${isa} HWY_IS_DEBUG_BUILD=0)   # its checks in debug builds would want its library
    target_compile_options(falconet_${isa} PRIVATE ${falconet_flags_${isa}} ${falconet_simd_optimisation} -fno-exceptions)
    target_link_libraries(falconet_${isa} PRIVATE falconet_options)
    target_sources(falconet PRIVATE $<TARGET_OBJECTS:falconet_${isa}>)
  endif()
endforeach()

if(FALCONET_WITH_CUDA)
  falconet_add_cuda(falconet)
endif()

# What measurements of kernels are remembered by: a hash of their sources, compiler and flags.
file(GLOB_RECURSE falconet_kernel_files CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/falconet/ops/*.cpp ${PROJECT_SOURCE_DIR}/falconet/ops/*.h
     ${PROJECT_SOURCE_DIR}/falconet/device/cpu/*.cpp ${PROJECT_SOURCE_DIR}/falconet/device/cpu/*.h)
if(FALCONET_WITH_CUDA)
  file(GLOB_RECURSE falconet_gpu_kernel_files CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/falconet/ops/*.cu ${PROJECT_SOURCE_DIR}/falconet/ops/*.cuh
       ${PROJECT_SOURCE_DIR}/falconet/device/cuda/*.cuh ${PROJECT_SOURCE_DIR}/falconet/device/cuda/*.h)
  list(APPEND falconet_kernel_files ${falconet_gpu_kernel_files})
endif()
set(falconet_fingerprint ${CMAKE_CURRENT_BINARY_DIR}/generated/kernel_fingerprint.cpp)
list(JOIN falconet_kernel_files "\n" falconet_kernel_lines)
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/generated/kernel_files.txt "${falconet_kernel_lines}\n")
add_custom_command(OUTPUT ${falconet_fingerprint} DEPENDS ${falconet_kernel_files} cmake/KernelFingerprint.cmake WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
                   COMMAND ${CMAKE_COMMAND} -DLIST=${CMAKE_CURRENT_BINARY_DIR}/generated/kernel_files.txt "-DSALT=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_CXX_FLAGS} ${CMAKE_CUDA_COMPILER_VERSION} ${CMAKE_CUDA_FLAGS} ${CMAKE_BUILD_TYPE} ${CMAKE_CXX_FLAGS_RELEASE}"
                           -DOUT=${falconet_fingerprint} -P cmake/KernelFingerprint.cmake VERBATIM)
target_sources(falconet PRIVATE ${falconet_fingerprint})

# zlib is needed; the others are optional: without libdeflate .gz files take three times as long to read, without one of the rest its
# files are refused with a clear error.
include(FalconetDependencies)
function(falconet_has name macro yes)
  if(name STREQUAL deflate)   # one file asks
    set_property(SOURCE falconet/data/mnist.cpp APPEND PROPERTY COMPILE_DEFINITIONS FALCONET_HAS_${macro}=${yes})
  else()
    target_compile_definitions(falconet PRIVATE FALCONET_HAS_${macro}=${yes})
  endif()
endfunction()
set(falconet_archives "")
foreach(name IN LISTS falconet_known_archives)
  falconet_find_archive(${name})
  find_path(FALCONET_HEADER_${name} ${falconet_header_${name}})
  mark_as_advanced(FALCONET_HEADER_${name})
  string(REGEX REPLACE "[0-9]" "" macro ${name})
  string(TOUPPER ${macro} macro)
  if(FALCONET_ARCHIVE_${name} AND FALCONET_HEADER_${name})
    list(APPEND falconet_archives ${name})
    target_include_directories(falconet PRIVATE ${FALCONET_HEADER_${name}})
    target_link_libraries(falconet PRIVATE $<BUILD_INTERFACE:${FALCONET_ARCHIVE_${name}}>)
    falconet_has(${name} ${macro} 1)
  elseif(name STREQUAL z)
    message(FATAL_ERROR "falconet needs zlib (Debian package ${falconet_package_z})")
  else()
    falconet_has(${name} ${macro} 0)
    message(STATUS "falconet: built without lib${name} (Debian package ${falconet_package_${name}})")
  endif()
endforeach()

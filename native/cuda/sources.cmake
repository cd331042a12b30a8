# How the CUDA part is compiled: nvcc for *.cu, one object each, the resource report beside it; the host files with the
# rest of the addon. Sets CUDA_OBJECTS and CUDA_ROOT. Needs -DLATHE_NVCC=<nvcc> from scripts/build-cuda.mjs.
set(CUDA_SOURCES
  adamw attention attention_backward cross_entropy elementwise embedding gemm_own linear_group lora_linear
  lora_linear_backward lora_plain lora_products paged_attention random reduce rms_norm rope sample_tokens swiglu)
set(CUDA_HOST_SOURCES backend gemm cublaslt cublaslt_paths graph memory runtime staging table)

get_filename_component(CUDA_BIN "${LATHE_NVCC}" DIRECTORY)
get_filename_component(CUDA_ROOT "${CUDA_BIN}" DIRECTORY)
set(CUDA_ROOT "${CUDA_ROOT}" CACHE PATH "folder of the CUDA toolkit")
# SASS for A100 and H100 class devices; later ones compile the PTX when they load it.
set(LATHE_CUDA_ARCHS "80;90" CACHE STRING "compute capabilities to compile for")
set(GENCODE "")
foreach(arch ${LATHE_CUDA_ARCHS})
  list(APPEND GENCODE "-gencode=arch=compute_${arch},code=sm_${arch}")
  set(NEWEST ${arch})
endforeach()
list(APPEND GENCODE "-gencode=arch=compute_${NEWEST},code=compute_${NEWEST}")

file(GLOB CUDA_HEADERS CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*.h" "${CMAKE_CURRENT_LIST_DIR}/*.cuh"
  "${CMAKE_CURRENT_SOURCE_DIR}/core/*.h")
set(CUDA_OBJECTS "")
file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/cuda")
foreach(name ${CUDA_SOURCES})
  set(source "${CMAKE_CURRENT_LIST_DIR}/${name}.cu")
  set(object "${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o")
  set(report "${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.ptxas")
  string(JOIN " " command "'${LATHE_NVCC}'" -c -std=c++20 -O3 ${GENCODE} -Xptxas -v -Xcompiler=-fPIC,-fvisibility=hidden
    -o "'${object}'" "'${source}'" "> '${report}' 2>&1 || { cat '${report}'; exit 1; }")
  add_custom_command(OUTPUT "${object}" COMMAND sh -c "${command}" DEPENDS "${source}" ${CUDA_HEADERS}
    COMMENT "nvcc ${name}.cu" VERBATIM)
  list(APPEND CUDA_OBJECTS "${object}")
endforeach()
foreach(name ${CUDA_HOST_SOURCES})
  list(APPEND CUDA_OBJECTS "${CMAKE_CURRENT_LIST_DIR}/${name}.cc")
endforeach()

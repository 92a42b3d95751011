// RUN: qvit-opt %s --best 2> %t.txt | filecheck %s --check-prefixes=CHECK,BEST
// RUN: qvit-opt %s --i-vit 2> %t.txt | filecheck %s --check-prefixes=CHECK,IVIT
// RUN: qvit-opt %s --i-bert 2> %t.txt | filecheck %s --check-prefixes=CHECK,IBERT
// RUN: not qvit-opt %s --i-vit=published 2>&1 | filecheck %s --check-prefix=REFUSED
// RUN: qvit-opt %s --i-vit=published,unchecked 2> %t.txt | filecheck %s --check-prefixes=CHECK,PUBLISHED

// A scheme is all its passes: products on integers, functions by its approximations, multipliers and shifts.

// CHECK:      @main
// CHECK-SAME: qvit.integer_only
// CHECK:      qvit.linear {{.*}} -> tensor<2x4xi32>
// CHECK-NOT:  #qvit.real
// BEST:       qvit.int_function {{.*}} by #qvit.table<
// IVIT:       qvit.int_function {{.*}} by #qvit.shiftgelu<
// IBERT:      qvit.int_function {{.*}} by #qvit.i_gelu<
// PUBLISHED:  qvit.int_function {{.*}} by #qvit.shiftgelu_published<
// CHECK:      @dequantize_outputs

// REFUSED: 1 operations stay in float:
// REFUSED: gelu: shiftgelu-published: i0 = -1 leaves no code between two powers of two
func.func @main(%x: tensor<2x3xf32> {qvit.name = "x"}) -> (tensor<2x4xf32> {qvit.name = "y"}) {
  %q = qvit.quantize %x <0.1> : tensor<2x3xf32> -> tensor<2x3xi8>
  %a = qvit.dequantize %q <0.1> : tensor<2x3xi8> -> tensor<2x3xf32>
  %w = qvit.constant dense<[[1, 2, 3], [-4, 5, 6], [7, -8, 9], [1, 1, 1]]> : tensor<4x3xi8>
  %v = qvit.dequantize %w <0.05> : tensor<4x3xi8> -> tensor<4x3xf32>
  %z = qvit.linear %a, %v {qvit.src = ["fc"]} : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  %r = qvit.quantize %z <0.7> : tensor<2x4xf32> -> tensor<2x4xi6>
  %d = qvit.dequantize %r <0.7> : tensor<2x4xi6> -> tensor<2x4xf32>
  %g = qvit.gelu %d {qvit.src = ["gelu"]} : tensor<2x4xf32>
  %s = qvit.quantize %g <0.1> : tensor<2x4xf32> -> tensor<2x4xi8>
  %y = qvit.dequantize %s <0.1> : tensor<2x4xi8> -> tensor<2x4xf32>
  func.return %y : tensor<2x4xf32>
}

// RUN: qvit-opt %s --rescue-channels --split-input-file | filecheck %s

// Scales 1 and 3, zero points 2 and 4: the common scale is 2, the common zero point 3, the ratios 1/2 and 3/2.
// CHECK-LABEL: func.func @both
// gamma / ratio; beta / ratio + 2 (z_c - 3)
// CHECK-DAG: dense<2.000000e+00> : tensor<2xf32>
// CHECK-DAG: dense<[-1.000000e+00, 4.000000e+00]> : tensor<2xf32>
// CHECK: qvit.quantize %{{.*}} <2.0, zero_point = 3>
// CHECK: qvit.dequantize %{{.*}} <2.0, zero_point = 3>
// W ratio; b - W ratio 2 (z_c - 3)
// CHECK-DAG: dense<{{.*}}5.000000e-01, 3.000000e+00{{.*}}> : tensor<1x2xf32>
// CHECK-DAG: dense<5.000000e+00> : tensor<1xf32>
// CHECK: qvit.linear
func.func @both(%x: tensor<5x2xf32>) -> tensor<5x1xf32> {
  %g = qvit.constant dense<[1.0, 3.0]> : tensor<2xf32>
  %b = qvit.constant dense<[0.5, 3.0]> : tensor<2xf32>
  %n = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.0e-6 : (tensor<5x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<5x2xf32>
  %q = qvit.quantize %n <[1.0, 3.0], zero_point = [2, 4], axis = 1> : tensor<5x2xf32> -> tensor<5x2xui8>
  %d = qvit.dequantize %q <[1.0, 3.0], zero_point = [2, 4], axis = 1> : tensor<5x2xui8> -> tensor<5x2xf32>
  %w = qvit.constant dense<[[1.0, 2.0]]> : tensor<1x2xf32>
  %c = qvit.constant dense<[10.0]> : tensor<1xf32>
  %y = qvit.linear %d, %w, %c : (tensor<5x2xf32>, tensor<1x2xf32>, tensor<1xf32>) -> tensor<5x1xf32>
  func.return %y : tensor<5x1xf32>
}

// -----

// Made by something else.
// CHECK-LABEL: func.func @no_norm
// CHECK: axis = 1
func.func @no_norm(%x: tensor<5x2xf32>) -> tensor<5x1xf32> {
  %q = qvit.quantize %x <[1.0, 3.0], axis = 1> : tensor<5x2xf32> -> tensor<5x2xi8>
  %d = qvit.dequantize %q <[1.0, 3.0], axis = 1> : tensor<5x2xi8> -> tensor<5x2xf32>
  %w = qvit.constant dense<[[1.0, 2.0]]> : tensor<1x2xf32>
  %y = qvit.linear %d, %w : (tensor<5x2xf32>, tensor<1x2xf32>) -> tensor<5x1xf32>
  func.return %y : tensor<5x1xf32>
}

// -----

// One scale already.
// CHECK-LABEL: func.func @one
// CHECK: qvit.quantize %{{.*}} <3.0>
func.func @one(%x: tensor<5x2xf32>, %g: tensor<2xf32>) -> tensor<5x1xf32> {
  %n = qvit.layer_norm %x, %g axis 1 epsilon 1.0e-6 : (tensor<5x2xf32>, tensor<2xf32>) -> tensor<5x2xf32>
  %q = qvit.quantize %n <3.0> : tensor<5x2xf32> -> tensor<5x2xi8>
  %d = qvit.dequantize %q <3.0> : tensor<5x2xi8> -> tensor<5x2xf32>
  %w = qvit.constant dense<[[1.0, 2.0]]> : tensor<1x2xf32>
  %y = qvit.linear %d, %w : (tensor<5x2xf32>, tensor<1x2xf32>) -> tensor<5x1xf32>
  func.return %y : tensor<5x1xf32>
}
